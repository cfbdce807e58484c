"""Judges heartbeat files: is the worker alive, started, ready? Pure but for reading the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.process.heartbeat import read_heartbeat

#: Checks of one kind, one per worker process, as ``application/health+json`` lists them.
Checks = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker counts as dead or stuck, in seconds.

    Attributes:
        heartbeat: greatest age of the heartbeat file.
        stall: longest time in which nothing is taken although work waits and slots are free.
    """

    heartbeat: float = 9.0
    stall: float = 15.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A heartbeat file as found at one moment; ``problem`` says why it does not show a living worker."""

    document: dict[str, Any] | None
    now: float
    age: float | None = None
    problem: str | None = None


def read_workers(paths: Iterable[Path], now: float, limits: Limits) -> list[Reading]:
    """Read the heartbeat files; ``now`` is Unix seconds."""
    return [_read(path, now, limits.heartbeat) for path in paths]


def _read(path: Path, now: float, limit: float) -> Reading:
    try:
        document = read_heartbeat(path)
    except OSError as error:
        return Reading(None, now, problem=f"{path} cannot be read: {error.strerror}")
    if document is None:
        return Reading(None, now, problem=f"no heartbeat in {path}: its process has not started, or has stopped")
    age = now - document["time"]
    if abs(age) > limit:
        # On a full disk a worker can only touch its file.
        with suppress(OSError):
            age = min(age, now - path.stat().st_mtime, key=abs)
    # One from the future is no better: after a clock was set back it would look fresh for ever.
    problem = None if abs(age) <= limit else f"the last heartbeat in {path} is {age:.0f} s old, more than {limit:g} s"
    return Reading(document, now, age, problem)


def live(readings: Sequence[Reading]) -> Checks:
    """Check that each worker's event loop turns. Without a worker to watch, that this code runs is the answer."""
    if not readings:
        return {"probe:loop": [_check()]}
    return {"worker:heartbeat": [_heartbeat(reading) for reading in readings]}


def started(readings: Sequence[Reading]) -> Checks:
    """Check that each worker has got beyond its start-up."""
    checks = live(readings)
    if states := [
        _check(_state_problem(document, "running", "draining", "stopped"), componentId=str(document["pid"]))
        for document in _documents(readings)
    ]:
        checks["worker:state"] = states
    return checks


def ready(readings: Sequence[Reading], limits: Limits) -> Checks:
    """Check that each worker is alive, neither starting nor draining, reaches Redis, and takes what waits."""
    checks = live(readings)
    for reading in readings:
        if reading.document is None:
            continue
        document, pid = reading.document, str(reading.document["pid"])
        redis = None if document["redis_up"] else "the worker does not reach Redis"
        state = _state_problem(document, "running")
        checks.setdefault("worker:state", []).append(_check(state, componentId=pid))
        checks.setdefault("redis:connection", []).append(_check(redis, componentId=pid))
        for family, facts in document["families"].items():
            stalled = _stall_problem(facts, reading.now, limits.stall)
            checks.setdefault(f"{family}:progress", []).append(_check(stalled, componentId=pid))
    return checks


def passed(checks: Checks) -> bool:
    """Tell whether every check passed."""
    return all(check["status"] == "pass" for group in checks.values() for check in group)


def _documents(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    return [reading.document for reading in readings if reading.document is not None]


def _check(problem: str | None = None, **facts: Any) -> dict[str, Any]:
    return {"status": "fail" if problem else "pass", **facts, **({"output": problem} if problem else {})}


def _heartbeat(reading: Reading) -> dict[str, Any]:
    if reading.document is None or reading.age is None:
        return _check(reading.problem)
    pid = str(reading.document["pid"])
    return _check(reading.problem, componentId=pid, observedValue=round(reading.age, 3), observedUnit="s")


def _state_problem(document: dict[str, Any], *accepted: str) -> str | None:
    state = document["state"]
    return None if state in accepted else f"the worker is {state}"


def _stall_problem(facts: dict[str, Any], now: float, limit: float) -> str | None:
    """Say so when work waits, slots are free and nothing was taken for longer than ``limit`` seconds."""
    waits_since = facts["claimable_since"]
    if waits_since is None or facts["running"] >= facts["slots"]:
        return None
    idle = now - max(waits_since, facts["last_claim"] or 0)
    if idle <= limit:
        return None
    free = facts["slots"] - facts["running"]
    return f"work waits and {free} of {facts['slots']} slots are free, but nothing was taken for {idle:.0f} s"
