"""Analytics: events are stored in bulk, metrics collected from other services, and both rolled up by time.

``payloads`` what the jobs carry, ``tasks`` the functions, ``worker`` the family with its schedules. ``events`` and
``rollups`` are the tables' two sides, ``periods`` the calendar.
"""
