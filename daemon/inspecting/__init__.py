"""What there is to be seen of queues and jobs, beside `daemon.inspector`: none of it changes anything.

`job_info` (one job), `situation` and `explain` (why it does not run), `queue_stats` (counts, workers), `server_info`,
`answers` (of several servers), `consistency` (what belongs to nothing).
"""
