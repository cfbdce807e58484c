"""Alerts: what is wrong, told once, again after a while, and when it is over.

``settings`` says what counts as wrong, ``reading`` asks Redis, ``rules`` judges, ``objectives`` judges how soon jobs
start, ``book`` remembers what fires and what is silenced, ``channels`` tells people; ``watch`` does it in this order.
"""
