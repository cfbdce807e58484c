"""What is offered to Redis once more, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions

from daemon.producing.handover import hand_over


class Refusing:
    """A broker whose server always answers so; real ones take seconds to do that."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.resends: list[bool] = []

    async def enqueue(self, jobs: Any, *, resend: bool, waiting: str) -> Any:
        self.resends.append(resend)
        raise self.error


@pytest.mark.parametrize(
    ("error", "resends"),
    [
        # Nobody knows whether it was done.
        (exceptions.ConnectionError("lost"), [False, True]),
        (exceptions.TimeoutError("no reply"), [False, True]),
        # It was not, and the client has tried again for as long as it may.
        (exceptions.ClusterDownError("The cluster is down"), [False]),
        (exceptions.TryAgainError("it moves"), [False]),
    ],
)
async def test_once_more_where_nobody_knows(error: Exception, resends: list[bool]) -> None:
    broker: Any = Refusing(error)
    with pytest.raises(type(error)):
        await hand_over(broker, [])
    assert broker.resends == resends
