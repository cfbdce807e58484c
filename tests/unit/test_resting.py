"""Which families rest: who is renewed wholly and when, and what of its worker is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from daemon.claiming.resting import WHOLE_ROUNDS, Resting
from daemon.keys import FamilyKeys

NOW = 1_763_775_600_000


@dataclass(eq=False)
class Worker:
    """As far as `Resting` looks at one."""

    name: str
    lease_ms: int = 30_000
    info: dict[str, Any] = field(default_factory=lambda: {"running": 0, "lag": 0.0, "memory": 1})

    @property
    def keys(self) -> FamilyKeys:
        return FamilyKeys.of(self.name)

    @property
    def published(self) -> bytes:
        return json.dumps(self.info).encode()


def families(count: int) -> tuple[Resting, list[Any]]:
    workers: list[Any] = [Worker(f"f{n}") for n in range(count)]
    return Resting("session", workers), workers


def round_of(resting: Resting, workers: list[Any]) -> set[str]:
    """Make a round of renewals, of which none fails; gives the names of those that were renewed wholly."""
    resting_now = resting.next_round()
    if resting_now:
        resting.call(resting_now)
        assert resting.renewed(resting_now, [NOW, *(1 for _ in resting_now)]) == []
    whole = [worker for worker in workers if worker not in resting_now]
    for worker in whole:
        resting.renewed_wholly(worker, worker.published, NOW, rests=True)
    return {worker.name for worker in whole}


def test_one_alone_is_renewed_wholly_each_sixth_time() -> None:
    resting, workers = families(1)
    found = [round_of(resting, workers) for _ in range(3 * WHOLE_ROUNDS)]
    assert [number + 1 for number, names in enumerate(found) if names] == [6, 12, 18]


def test_of_many_one_takes_its_turn_in_each_round() -> None:
    resting, workers = families(14)
    found = [round_of(resting, workers) for _ in range(WHOLE_ROUNDS - 1 + 2 * 14)]
    assert all(names == set() for names in found[: WHOLE_ROUNDS - 1])
    turns = [name for names in found[WHOLE_ROUNDS - 1 :] for name in sorted(names)]
    assert turns[:14] == turns[14:]
    assert sorted(turns[:14]) == sorted(worker.name for worker in workers)


def test_one_with_jobs_does_not_rest_until_a_whole_renewal_says_so() -> None:
    resting, workers = families(2)
    chosen = resting.next_round()
    resting.call(chosen)
    assert resting.renewed(chosen, [NOW, 1, 0]) == [workers[1]]
    resting.renewed_wholly(workers[1], workers[1].published, NOW, rests=False)
    assert resting.next_round() == [workers[0]]
    resting.renewed_wholly(workers[1], workers[1].published, NOW, rests=True)
    assert resting.next_round() == workers


def test_after_a_failure_nobody_rests() -> None:
    resting, _ = families(2)
    resting.forget()
    assert resting.next_round() == []


def test_what_is_published_is_sent_when_it_has_changed() -> None:
    resting, workers = families(1)

    def sent() -> tuple[Any, ...]:
        call = resting.call(workers)
        assert resting.renewed(workers, [NOW, 1]) == []
        return call[-3:]

    assert sent() == ("", 30_000, b""), "it registered with that"
    workers[0].info["memory"] = 2
    assert sent() == (NOW, 30_000, b"")
    workers[0].info["draining"] = True
    assert sent() == (NOW, 30_000, workers[0].published)
    assert sent() == (NOW, 30_000, b"")
