"""Pushes: ``payloads`` what the jobs carry, ``tasks`` the function, ``onesignal`` the service, ``worker`` the family.

Who has which devices, and wants pushes, is in `handlers.integrations.users`.
"""
