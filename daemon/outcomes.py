"""What became of jobs that `daemon.control` acted on, in words for people."""

from __future__ import annotations

#: It was done.
DONE = {
    "retried": "retried",
    "removed": "removed",
    "discarded": "discarded",
    "promoted": "promoted",
    "changed": "changed",
    "aborted": "aborted",
    "asked": "runs, its worker was told to stop it",
}
#: It was not, and why.
REASONS = {
    "not_found": "there is no such job",
    "active": "it is running",
    "ended": "it has ended",
    "not_failed": "it is not a dead letter",
    "not_delayed": "it is not delayed",
    "retried_before": "it was sent back before",
    "no_record": "it is a job of stock arq's, which cannot be enqueued again from the archive",
    "away": "its server, one of several, cannot be asked: try again later",
}
