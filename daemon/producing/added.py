"""What the enqueue script says became of the jobs it was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from daemon.errors import InClear


class Repeat(NamedTuple):
    """A job that was not added: the job ``id`` has its dedup key, and got its payload if ``replaced``.

    ``bound``: it did not get it, since the payload is encrypted for the id it was to have; encrypt it for this one.
    """

    id: str
    replaced: bool
    bound: bool = False


def read_added(reply: Sequence[Any]) -> list[bool | Repeat]:
    """Read a reply of ``lua/enqueue.lua``.

    Raises:
        InClear: when the family takes one of them encrypted only.
    """
    if reply and reply[0].__class__ is bytes:
        raise InClear(reply[1].decode(), reply[0] == b"marked")
    return [new == 1 if new.__class__ is int else Repeat(new[0].decode(), new[1] == 1, new[1] == 2) for new in reply]
