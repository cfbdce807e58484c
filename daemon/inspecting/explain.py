"""Why a job does not run, and when it will: one reason and one sentence. What is judged is a `situation`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from daemon.connecting.connections import translated
from daemon.inspecting.job_info import BLOCKED, HELD, LANE, PARKED, SUSPECT
from daemon.inspecting.situation import Situation, Worker, look
from daemon.job import JobState, from_ms
from daemon.keys import spoken_id

if TYPE_CHECKING:
    from daemon.inspector import Inspector

#: Characters of an error in a sentence; `details` has all of it.
_LONGEST_ERROR = 200
_BURIED = {
    "tries": "its last try failed",
    "permanent": "no other try can help",
    "crashes": "its workers died while it ran",
    "payload": "its payload is not what the function takes",
    "unreadable": "it cannot be read",
    "too_large": "its result is too large",
    "child": "a job it waited for failed",
}
_ENDED = {
    JobState.COMPLETED: "It was completed{}.",
    JobState.ABORTED: "It was aborted{}.",
    JobState.EXPIRED: "It expired{}: its deadline passed before it could run, or its payload was gone.",
}


class Reason(StrEnum):
    """Why a job does not run. Of those that keep a waiting job back, the first in this order is told."""

    BLOCKED = "blocked"
    PAUSED = "paused"
    NO_WORKER = "no_worker"
    UNKNOWN_FUNCTION = "unknown_function"
    PARKED = "parked"
    QUEUE_WAITS = "queue_waits"
    GROUP_WAITS = "group_waits"
    GROUP_LIMIT = "group_limit"
    GROUP_RATE = "group_rate"
    FUNCTION_WAITS = "function_waits"
    FUNCTION_LIMIT = "function_limit"
    FUNCTION_RATE = "function_rate"
    GLOBAL_LIMIT = "global_limit"
    RATE_LIMIT = "rate_limit"
    SHARED_LIMIT = "shared_limit"
    SHARED_RATE = "shared_rate"
    SUSPECT = "suspect"
    BEHIND = "behind"
    NEXT = "next"
    DELAYED = "delayed"
    RETRY = "retry"
    RUNNING = "running"
    LEASE_ENDED = "lease_ended"
    FAILED = "failed"
    COMPLETED = "completed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job does not run; times are aware UTC datetimes on Redis's clock.

    Attributes:
        message: a sentence or two for people.
        until: for this reason it does not start before; None where no time is known.
        since: since when it is so, where that is known.
        position: how many jobs stand before it: in the queue, or in the line of its group or function.
        details: what else is known, plain data; docs/explain.md names it for each reason.
    """

    id: str
    family: str
    state: JobState
    reason: Reason
    message: str
    until: datetime | None = None
    since: datetime | None = None
    position: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


async def explain(inspector: Inspector, written: str) -> Explanation:
    """Explain a job by its id as people write it, ``email:<id>``; one that is not there is explained, too.

    Raises:
        InvalidJob: when the id names no family and there are several.
    """
    keys, ids = inspector.find(written)
    with translated():
        for job_id in ids:
            found = await look(inspector.redis, keys, job_id)
            if found is not None:
                return _Judge(found).explain()
    message = "There is no such job: it never existed, or it ended and what was kept of it has been removed."
    return Explanation(spoken_id(ids[0]), keys.family, JobState.NOT_FOUND, Reason.NOT_FOUND, message)


class _Judge:
    """Finds the reason in a situation."""

    def __init__(self, at: Situation) -> None:
        self.at = at
        self.now = at.now
        self.score = -1.0 if at.score is None else at.score

    def explain(self) -> Explanation:
        """Give the reason."""
        if self.at.score is None:
            return self._ended()
        if self.at.info.state is JobState.ACTIVE:
            return self._active()
        if self.at.info.state is JobState.DELAYED:
            return self._delayed()
        if self.at.info.state is JobState.PARKED:
            return self._parked()
        if self.at.info.state is JobState.BLOCKED:
            return self._blocked()
        return self._stopped() or self._in_lane() or self._limited() or self._shared() or self._in_line()

    def _answer(
        self,
        reason: Reason,
        message: str,
        *,
        until: float | None = None,
        since: float | None = None,
        position: int | None = None,
        **details: Any,
    ) -> Explanation:
        info = self.at.info
        if self.at.score is not None and info.expires_at:
            details["expires_at"] = info.expires_at
        till, begun = (None if ms is None else from_ms(int(ms)) for ms in (until, since))
        return Explanation(info.id, info.family, info.state, reason, message, till, begun, position, details)

    def _when(self, ms: float) -> str:
        """Give a time as people read it, with how far it is from now."""
        span = abs(ms - self.now) / 1000
        units = ((172_800, 86_400, "d"), (7_200, 3_600, "h"), (120, 60, "min"), (1, 1, "s"))
        far = next((f"{span / size:.0f} {unit}" for least, size, unit in units if span >= least), "less than 1 s")
        told = f"{from_ms(int(ms)):%Y-%m-%d %H:%M:%S} UTC"
        return f"{told} (in {far})" if ms > self.now else f"{told} ({far} ago)"

    # ------------------------------------------------------------------ waiting

    def _blocked(self) -> Explanation:
        """It waits for other jobs, whatever its queue does."""
        left, ended = self.at.children_left, self.at.children_ended
        names = [spoken_id(name.decode("utf-8", "replace")) for name in self.at.awaited]
        some = ", ".join(names) + (f" and {left - len(names)} more" if left > len(names) else "")
        have = "has" if ended == 1 else "have"
        message = f"It waits for its children {some}; {ended} of {left + ended} {have} ended."
        facts: dict[str, Any] = {"waits_for": names, "left": left, "children": left + ended}
        return self._answer(Reason.BLOCKED, message, since=self.score - BLOCKED, **facts)

    def _stopped(self) -> Explanation | None:
        """Nobody claims from this queue, or not this job."""
        at = self.at
        paused, until = at.conf["paused"], int(at.conf["until"] or 0)
        if paused is not None:
            message = f"The queue is paused since {self._when(int(paused))}; `arqd resume {at.info.family}` ends that."
            return self._answer(Reason.PAUSED, message, since=int(paused))
        if not at.able:
            draining = len(at.live)
            told = f" that takes jobs, {draining} only end what they run" if draining else ""
            message = f"There is no worker{told}; `arqd run` starts one."
            return self._answer(Reason.NO_WORKER, message, draining=draining)
        if unknown := self._unknown():
            return unknown
        if until > self.now:
            message = f"One of its jobs was told to wait: the queue starts nothing until {self._when(until)}."
            return self._answer(Reason.QUEUE_WAITS, message, until=until)
        return None

    def _parked(self) -> Explanation:
        """A worker had it and could not run it."""
        since, info = self.score - PARKED, self.at.info
        known = sorted({name for worker in self.at.able for name in worker.info.get("functions", ())})
        message = f"It is parked since {self._when(since)}: {info.note}. It runs when a worker starts that can run it."
        facts: dict[str, Any] = {"function": info.function, "functions": known, "note": info.note}
        return self._answer(Reason.PARKED, message, since=since, **facts)

    def _unknown(self) -> Explanation | None:
        """There are workers, but none with its function."""
        able, function = self.at.able, self.at.info.function
        known = sorted({name for worker in able for name in worker.info.get("functions", ())})
        if not function or not able or function in known:
            return None
        names = sorted(worker.name for worker in able)
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        message = f"No worker knows the function {function!r}: there are {some}, with {', '.join(known)}."
        facts: dict[str, Any] = {"function": function, "workers": names, "functions": known}
        return self._answer(Reason.UNKNOWN_FUNCTION, message, **facts)

    def _in_lane(self) -> Explanation | None:
        """Its group or function is at a limit; None when that has room again."""
        lane = self.at.lane
        if lane is None:
            return None
        facts: dict[str, Any] = {"position": lane.rank, lane.kind: lane.name}
        who, before = f"Its {lane.kind} {lane.name!r}", _before(lane.rank)
        if lane.until > self.now:
            message = f"{who} was told to wait: it starts nothing until {self._when(lane.until)}{before}."
            return self._answer(Reason(f"{lane.kind}_waits"), message, until=lane.until, **facts)
        if lane.limit is not None and lane.active >= lane.limit:
            message = f"{who} is at its limit: {lane.active} run and {lane.limit} may{before}."
            facts |= {"limit": lane.limit, "active": lane.active}
            return self._answer(Reason(f"{lane.kind}_limit"), message, **facts)
        if lane.window and (free := lane.window.full_until(self.at.now_us)):
            rate = f"{lane.window.count} per {lane.window.seconds:g} s"
            message = f"{who} is at its rate of {rate}: the next may start at {self._when(free)}{before}."
            facts |= {"rate": lane.window.count, "per_seconds": lane.window.seconds}
            return self._answer(Reason(f"{lane.kind}_rate"), message, until=free, **facts)
        return None

    def _limited(self) -> Explanation | None:
        """The queue starts no job now."""
        at, facts = self.at, self._place()
        limit, before = at.global_limit, _before(facts["position"])
        if limit is not None and at.active >= limit:
            message = f"The queue is at its limit: {at.active} run and {limit} may{before}."
            return self._answer(Reason.GLOBAL_LIMIT, message, limit=limit, active=at.active, **facts)
        if at.window and (free := at.window.full_until(at.now_us)):
            rate = f"{at.window.count} per {at.window.seconds:g} s"
            message = f"The queue is at its rate of {rate}: the next may start at {self._when(free)}{before}."
            facts |= {"rate": at.window.count, "per_seconds": at.window.seconds}
            return self._answer(Reason.RATE_LIMIT, message, until=free, **facts)
        return None

    def _shared(self) -> Explanation | None:
        """A limit that its family shares with others lets none of them start a job now."""
        facts = self._place()
        for limit in self.at.shared:
            who, before = f"The shared limit {limit.name!r} is used up", _before(facts["position"])
            told: dict[str, Any] = {"shared_limit": limit.name, "running": limit.running, **facts}
            if limit.full:
                message = f"{who}: {sum(limit.running.values())} jobs run and {limit.concurrency} may{before}."
                return self._answer(Reason.SHARED_LIMIT, message, limit=limit.concurrency, **told)
            if limit.full_until is not None:
                until = limit.full_until.timestamp() * 1000
                message = f"{who} until {self._when(until)}: {limit.starts} started of {limit.rate}{before}."
                return self._answer(Reason.SHARED_RATE, message, until=until, rate=limit.rate, **told)
        return None

    def _place(self) -> dict[str, Any]:
        if SUSPECT <= self.score < LANE:
            return {"position": self.at.suspects}
        before = self.at.before()
        return {"position": sum(before.values()), "before": before}

    def _in_line(self) -> Explanation:
        """Nothing stops the queue: it waits for its turn and a slot."""
        at, facts = self.at, self._place()
        if SUSPECT <= self.score < LANE:
            crashes = at.info.crashes
            message = f"Its worker died {crashes} times while it ran: it waits for one that runs nothing else."
            return self._answer(Reason.SUSPECT, message, since=self.score - SUSPECT, crashes=crashes, **facts)
        slots = sum(worker.info.get("slots", 0) for worker in at.able)
        facts |= {"active": at.active, "slots": slots}
        busy = f"{at.active} of {slots} slots are taken"
        if others := facts["position"]:
            message = f"It waits behind {others} {'other' if others == 1 else 'others'}; {busy}."
            return self._answer(Reason.BEHIND, message, **facts)
        return self._answer(Reason.NEXT, f"It is the next to run; {busy}.", **facts)

    # ------------------------------------------------------------------ delayed, active, ended

    def _delayed(self) -> Explanation:
        info, due = self.at.info, int(self.score)
        # Whoever puts a job off without a failed try leaves a note; a failed try removes it.
        if info.note:
            message = f"It was put off until {self._when(due)}: {info.note}."
            return self._answer(Reason.DELAYED, message, until=due, note=info.note)
        if info.tries:
            number = info.tries + 1
            published = (worker.info.get("max_tries", {}).get(info.function) for worker in self.at.workers)
            total = info.max_tries or next((tries for tries in published if tries), None)
            of = f" of {total}" if total else ""
            last = info.history[-1] if info.history else None
            told = f"; the last one ended with {_error(last)}" if last else ""
            facts: dict[str, Any] = {"try": number, "max_tries": total, "error": last}
            return self._answer(Reason.RETRY, f"Try {number}{of} is at {self._when(due)}{told}.", until=due, **facts)
        return self._answer(Reason.DELAYED, f"It is delayed until {self._when(due)}.", until=due)

    def _active(self) -> Explanation:
        since, info = self.score - HELD, self.at.info
        holder = next((worker for worker in self.at.workers if worker.holds), None)
        if holder is None:
            message = f"It counts as running since {self._when(since)}, but no worker holds it."
            return self._answer(Reason.LEASE_ENDED, message, since=since)
        facts: dict[str, Any] = {
            "worker": holder.session,
            "host": holder.info.get("host"),
            "pid": holder.info.get("pid"),
            "lease_ends_at": from_ms(int(holder.lease_end)),
            "progress": info.progress,
            "note": info.note,
        }
        if holder.lease_end <= self.now:
            return self._silent(holder, facts)
        done = "" if info.progress is None else f", {info.progress} % done"
        message = f"It runs on {holder.name} (worker {holder.session}) since {self._when(since)}{done}."
        return self._answer(Reason.RUNNING, message, since=since, **facts)

    def _silent(self, holder: Worker, facts: dict[str, Any]) -> Explanation:
        """Its worker's lease has ended: the next call of another worker takes the job back."""
        again: int | None = None
        when = "when another worker starts"
        if self.at.live:
            # After an outage nothing is taken from anybody for one lease, so that workers can come back.
            again = max(self.at.quiet, self.now)
            when = f"after {self._when(again)}" if again > self.now else "with another worker's next call"
        ended = self._when(holder.lease_end)
        message = f"Its worker {holder.name} is silent, its lease ended {ended}: the job runs again {when}."
        return self._answer(Reason.LEASE_ENDED, message, until=again, since=holder.lease_end, **facts)

    def _ended(self) -> Explanation:
        info = self.at.info
        since = None if info.finished_at is None else info.finished_at.timestamp() * 1000
        when = "" if since is None else f" {self._when(since)}"
        if info.state is not JobState.FAILED:
            return self._answer(Reason(info.state.value), _ENDED[info.state].format(when), since=since)
        error = info.error or {"type": "?", "message": "not recorded", "reason": "?"}
        why = _BURIED.get(error["reason"], error["reason"])
        tries = "1 try" if info.tries == 1 else f"{info.tries} tries"
        message = (
            f"It is in the dead letters{when and ' since' + when}, after {tries}: {why} ({_error(error)}). "
            f"`arqd retry {info.id}` sends it back."
        )
        told = {name: error[name] for name in ("type", "message", "reason")}
        return self._answer(Reason.FAILED, message, since=since, tries=info.tries, error=told)


def _before(position: int) -> str:
    if not position:
        return ""
    return "; one stands before it" if position == 1 else f"; {position} stand before it"


def _error(error: dict[str, Any]) -> str:
    line = " ".join(f"{error['type']}: {error['message']}".split())
    return (line if len(line) <= _LONGEST_ERROR else line[:_LONGEST_ERROR] + " …").rstrip(".")
