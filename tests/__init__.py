"""arqd's tests; `tests.servers` starts the real servers they run against."""
