"""How a worker comes by jobs and keeps them, beside `daemon.worker`.

In order: `session` (numbered calls, outcomes kept until they are acknowledged), `turns` (whose call it is),
`prefetch` (claimed ahead), `wakeups` and `take` (asleep, and woken with a job), `progress` (does it take what
waits?), `leases` (no other takes what it has; `resting`: of families without jobs).
"""
