"""How a process of a worker ends, also where handlers or threads of its jobs do not."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from daemon.supervisor import Supervisor

logger = logging.getLogger("arqd.supervisor")

#: Exit status of a process that has to be replaced (EX_TEMPFAIL): start another one.
REPLACE_STATUS = 75


@contextmanager
def ending(supervisor: Supervisor, last: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Around a run of a supervisor: the process ends behind it when the run left something behind.

    Args:
        last: called before the process ends.
    """
    try:
        yield
    except Exception as error:
        if supervisor.left_behind:
            logger.error("%s", error)
            last()
            end_process(1)
        raise
    if supervisor.left_behind:
        last()
        end_process(REPLACE_STATUS if supervisor.replaced else 0)


def end_process(status: int) -> NoReturn:
    """End the process without waiting for what cannot be stopped; call it after a run that `left_behind` something.

    A handler that swallows its cancellation, or a thread, would keep the interpreter for as long as it likes.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
