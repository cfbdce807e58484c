"""Maintenance: old files and rows are removed, caches are warmed, ended jobs are cleaned up.

``payloads`` what the jobs carry, ``tasks`` the functions, ``worker`` the family with its schedules. ``files`` removes
files below allowed folders, ``rows`` rows of tables, ``cache`` holds what is warmed.
"""
