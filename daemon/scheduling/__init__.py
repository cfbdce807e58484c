"""Schedules at work; `daemon.schedules` changes them.

In order: `cron_jobs` (in a family's settings), `crontab` (when), `schedule` (what is stored), `publish` (a worker's
start stores its own), `scheduler` (which process makes the ticks), `ticks` (makes them).
"""
