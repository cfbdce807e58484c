"""What users are told: ``payloads`` what jobs carry, ``tasks`` the function, ``worker`` the family, ``commands`` the
command line. Users, their preferences and their lists of notifications are in `handlers.integrations.users`.
"""
