"""Which families of a process rest: without a job their leases are renewed together, by a command each.

That is lua/rest.lua. A whole renewal (lua/renew.lua) tells whether a family has jobs, repairs a lost wake-up, and lets
go what has aged. One that rests gets it in turn: one family with each round of renewals, none more often than each
sixth. What is published of its worker is sent with any round when something of it has changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daemon.lua import SCRIPTS

if TYPE_CHECKING:
    from daemon.claiming.leases import Leased

WHOLE_ROUNDS = 6
#: Published of a worker, and always changing.
_RESTLESS = ("lag", "memory")


@dataclass(slots=True)
class _Rest:
    """When a family was last renewed (Redis's clock, ms; "" when it registered), the round it was wholly, and what was
    published of its worker."""

    renewed: int | str
    whole: int
    published: dict[str, Any]


class Resting:
    """The families of one place that need no whole renewal now.

    Args:
        session: this process's session.
        workers: all of the place; until more is known of them they rest.
    """

    def __init__(self, session: str, workers: Sequence[Leased]) -> None:
        self._session = session
        self._round = 0
        self._rests = {worker: _Rest("", 0, _steady(worker.published)) for worker in workers}

    def forget(self) -> None:
        """A renewal failed: the next ones have to find out what happened meanwhile."""
        self._rests.clear()

    def renewed_wholly(self, worker: Leased, published: bytes, now: int, rests: bool) -> None:
        """A family was wholly renewed at ``now`` (Redis's clock, ms), with this published of its worker."""
        self._rests.pop(worker, None)
        if rests:
            self._rests[worker] = _Rest(now, self._round, _steady(published))

    def next_round(self) -> list[Leased]:
        """Give those that rest."""
        self._round += 1
        longest = min(self._rests, key=lambda worker: self._rests[worker].whole, default=None)
        if longest is not None and self._rests[longest].whole + WHOLE_ROUNDS <= self._round:
            del self._rests[longest]
        return list(self._rests)

    def call(self, workers: Sequence[Leased]) -> tuple[Any, ...]:
        """Give the command that renews them."""
        keys, values = [], []
        for worker in workers:
            rest, published = self._rests[worker], worker.published
            told = _steady(published)
            values += [rest.renewed, worker.lease_ms, b"" if told == rest.published else published]
            rest.published = told
            keys += [worker.keys.key("workers"), worker.keys.queue, worker.keys.key("session", self._session)]
        return ("EVALSHA", SCRIPTS["rest"].sha, len(keys), *keys, "", self._session, *values)

    def renewed(self, workers: Sequence[Leased], reply: Sequence[int]) -> list[Leased]:
        """Take the reply of `call`; gives those that have to be wholly renewed after all."""
        now, *done = reply
        for worker, renewed in zip(workers, done, strict=True):
            if renewed:
                self._rests[worker].renewed = now
            else:
                del self._rests[worker]
        return [worker for worker in workers if worker not in self._rests]


def _steady(published: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(published)
    return {name: value for name, value in told.items() if name not in _RESTLESS}
