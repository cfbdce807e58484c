"""Ways to Redis: `connections` (by URL, and its errors in our words), `channel` (for the calls made most), `routed`
(several servers behind one client), `cluster` (which node has a slot). `daemon.servers` says which family is
where.
"""
