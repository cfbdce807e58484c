"""Limits of queues, groups and functions, and those that families share.

`text` (how they are written), `queue_limits` (from settings and operators), `shared` (between families), `permits`
(what a worker holds of these), `budget` (bytes).
"""
