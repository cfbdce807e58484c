"""What SIGTERM does to a daemon that has not started yet; imports nothing, so that it is there from the start."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

#: The commands that stay.
DAEMONS = ("up", "run", "scheduler", "outbox", "probe", "console")


def end_when_told(words: Sequence[str]) -> None:
    """Have SIGTERM end a daemon until it handles signals itself; ``words`` are the command's.

    The first process of a container does not get a signal that it has no handler for: told to end while it imports
    its families, it would start all the same, and be killed with its jobs when the grace is over.
    """
    if words and words[0] in DAEMONS:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_told()))


def _told() -> int:
    print("arqd: SIGTERM before it has started: nothing to drain", file=sys.stderr, flush=True)
    return 0
