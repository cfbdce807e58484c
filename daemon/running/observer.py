"""What a worker tells of a try beside its outcome: its event's detail, and its share in the statistics.

The shares of the outcomes of one call are summed up here, so that the script only adds a few numbers.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from daemon.broker import Outcome
from daemon.encryption import MASK, is_sealed
from daemon.statistics import LONGEST, SEPARATOR

if TYPE_CHECKING:
    from daemon.family import FamilyValues
    from daemon.running.run import Run

#: Characters of an error's text in an event.
NOTE = 120


class Observer:
    """Observes the tries of one family.

    Args:
        values: whether it keeps events and statistics.
    """

    __slots__ = ("_counts", "_tells")

    def __init__(self, values: FamilyValues) -> None:
        self._tells = values.max_events > 0
        self._counts = values.statistics

    def observe(self, run: Run, kind: str, a: bytes | int, c: bytes) -> tuple[str, tuple[str, int, int] | None]:
        """Give `Outcome.detail` and `Outcome.share` of a try that ends so."""
        begun = run.begun
        ran = int(((run.ended_at or time.perf_counter()) - run.begun_at) * 1_000_000) if begun else -1
        detail, share = "", None
        run.waited = waited_seconds(run)
        if self._counts:
            # A name that no function has is whatever a producer wrote: it must not fill the statistics.
            function = run.function
            waited = int(run.waited * 1_000_000) if begun and run.job_try == 1 else -1
            share = (function.name if function else "?", waited, ran)
        if self._tells:
            name = run.entry.function if run.entry else "?"
            detail = f"{name}\t{run.job_try}\t{ran // 1000}" if begun else f"{name}\t{run.job_try}\t"
            if kind != "c" and (note := _note(kind, a, c)):
                detail += "\t" + note
        return detail, share


def waited_seconds(run: Run) -> float:
    """How long a job could have run before this try began: since it was enqueued or, delayed, since it was due."""
    entry = run.entry
    if entry is None:
        return 0.0
    since = entry.enqueued_ms
    if options := run.options:
        # Whoever writes into the queue may have written anything.
        if isinstance(delay := options.get("d"), int):
            since += delay
        elif isinstance(due := options.get("u"), int):
            since = max(since, due)
    return max(0.0, run.started - since / 1000)


def _note(kind: str, a: bytes | int, c: bytes) -> str:
    if kind in "rb":
        error = json.loads(c)
        message = MASK if is_sealed(error["message"]) else error["message"][:NOTE]
        text = f"{error['type']}: {message}"
        return " ".join((f"again in {int(a) / 1000:g} s: {text}" if kind == "r" else text).split())
    return " ".join(c.decode().split())


def sum_up(outcomes: Sequence[Outcome], sums: dict[str, int]) -> dict[str, int]:
    """Add the shares of these outcomes to ``sums``, and give it back."""
    if len(outcomes) == 1 and (share := outcomes[0].share) is not None:
        _add_one(outcomes[0].kind, *share, sums)
        return sums
    groups: dict[str, tuple[list[str], list[int], list[int]]] = {}
    for outcome in outcomes:
        if outcome.share is not None:
            function, waited, ran = outcome.share
            group = groups.get(function)
            if group is None:
                group = groups[function] = ([], [], [])
            group[0].append(outcome.kind)
            if ran >= 0:
                group[1].append(ran)
            if waited >= 0:
                group[2].append(waited)
    for function, (kinds, *times) in groups.items():
        start = function + SEPARATOR
        for kind, count in Counter(kinds).items():
            _add(sums, start + ("l" if kind == "w" else kind), count)
        for letter, values in zip("RW", times, strict=True):
            if values:
                if max(values) > LONGEST:
                    values = [min(value, LONGEST) for value in values]
                _add(sums, start + letter, sum(values))
                # Twice the logarithm of a number is the length of its square: no function of ours is called for each.
                for bucket, count in Counter(map(int.bit_length, [value * value for value in values])).items():
                    _add(sums, f"{start}{letter}{bucket}", count)
    return sums


def _add_one(kind: str, function: str, waited: int, ran: int, sums: dict[str, int]) -> None:
    start = function + SEPARATOR
    _add(sums, start + ("l" if kind == "w" else kind), 1)
    for letter, value in (("R", ran), ("W", waited)):
        if value >= 0:
            value = min(value, LONGEST)
            _add(sums, start + letter, value)
            _add(sums, f"{start}{letter}{(value * value).bit_length()}", 1)


def _add(sums: dict[str, int], field: str, amount: int) -> None:
    sums[field] = sums.get(field, 0) + amount
