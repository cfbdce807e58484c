"""A process of ours, beside `daemon.supervisor`: how it starts, serves, is watched and ends.

Life: `service` (systemd, reload; `notify`), `serving` (HTTP), `signals`, `ending`. Health: `heartbeat`, `watchdog`
(who blocks the loop; `stacks`), `profiler`. For jobs: `pool` (processes for CPU work), `collector` (garbage).
"""
