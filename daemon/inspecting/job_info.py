"""From what Redis holds of a job to a `JobInfo`: the score bands, the record, the result."""

from __future__ import annotations

import json
from typing import Any

from daemon import codec
from daemon.encryption import SEALED_JSON, JobCipher, is_sealed, shown, shown_error
from daemon.errors import Unreadable
from daemon.job import JobInfo, JobLogs, JobState, LogLine, from_ms
from daemon.keys import FamilyKeys, spoken_id
from daemon.records import split_record

# The score bands of lua/prelude.lua.
READY_BASE, LEVEL = -(2**52), 2**48
HELD, SUSPECT, BLOCKED = 2**45, 2**46, 2**46 + 2**45
LANE, PARKED = 2**47, 2**47 + 2**46


def _state(score: float | None, now: int, result: dict[str, Any] | None) -> JobState | None:
    if score is not None:
        if score >= PARKED:
            return JobState.PARKED
        if BLOCKED <= score < LANE:
            return JobState.BLOCKED
        if score < now + 1 or score >= SUSPECT:
            return JobState.WAITING
        return JobState.DELAYED if score < HELD else JobState.ACTIVE
    if result is None:
        return None
    if result["s"]:
        return JobState.COMPLETED
    reason = result["r"].get("reason") if isinstance(result["r"], dict) else None
    return {"aborted": JobState.ABORTED, "expired": JobState.EXPIRED}.get(str(reason), JobState.FAILED)


def _priority(score: float, level: int) -> int | None:
    if score < 0:
        return max(1, min(10, int((score - READY_BASE) // LEVEL)))
    if score < HELD and score % 1:
        return round(score % 1 * 16)
    return level or None


def job_info(
    keys: FamilyKeys,
    job_id: str,
    now: int,
    raw: bytes | None,
    ended: bytes | None,
    tries: bytes | None,
    token: bytes | None,
    progress: bytes | None,
    history: bytes | None,
    crashes: bytes | None,
    score: float | None,
    cipher: JobCipher | None = None,
) -> JobInfo | None:
    """Give what is known of a job from its keys' values; None when nothing is left of it.

    What is encrypted stands as asterisks, or in clear where its cipher is given.

    Raises:
        KeyMissing, Unreadable: see `JobCipher.open`.
    """
    result: dict[str, Any] | None = None
    if ended is not None:
        try:
            result = codec.decode_result(ended)
        except Unreadable:
            # Written by a serializer of stock arq's: only a dead letter keeps its payload.
            result = {"s": raw is None, "t": 0, "f": None, "et": 0, "r": None}
    state = _state(score, now, result)
    if state is None:
        return None
    stock = state is JobState.WAITING and token is not None and b":" not in token
    if stock:
        state = JobState.ACTIVE
    info = JobInfo(spoken_id(job_id), keys.family, state, crashes=int(crashes or 0))
    if tries is not None and tries.isdigit():
        info.tries = int(tries)
    if history is not None:
        info.history = [json.loads(line) for line in history.splitlines()]
        for attempt in info.history:
            attempt["at"] = from_ms(attempt["at"])
            attempt["message"] = shown(attempt["message"], "history", cipher)
    if progress is not None:
        percent, _, note = progress.decode().partition(" ")
        info.progress, info.note = int(percent), _note(note, cipher)
    if token is not None and state is JobState.ACTIVE:
        info.worker = "stock arq" if stock else token.decode().partition(":")[0]
    _add_record(info, raw, cipher)
    if score is not None:
        level = info.priority or 0
        info.priority = _priority(score, level)
        if state is JobState.DELAYED:
            info.due_at = from_ms(int(score))
        if state is JobState.ACTIVE and not stock:
            info.started_at = from_ms(int(score) - HELD)
    if result is not None and score is None:
        _add_result(info, result, cipher)
    info.result, info.error = shown(info.result, "result", cipher), shown_error(info.error, cipher)
    return info


def _note(note: str, cipher: JobCipher | None) -> str | None:
    if not note.startswith(SEALED_JSON.decode()):
        return note or None
    return str(shown(json.loads(note), "note", cipher))


def job_logs(raw: bytes | None, cipher: JobCipher | None = None) -> JobLogs:
    """Give the lines of a job's handler from what ``lua/log.lua`` keeps of them; see `job_info`."""
    if raw is None:
        return JobLogs()
    dropped, *lines = raw.splitlines()
    parts = (line.split(b" ", 2) for line in lines)
    kept = [LogLine(from_ms(int(at)), int(n), shown(json.loads(text), "log", cipher)) for at, n, text in parts]
    return JobLogs(kept, int(dropped))


def _add_record(info: JobInfo, raw: bytes | None, cipher: JobCipher | None) -> None:
    if raw is None:
        return
    try:
        record = split_record(raw)
        info.function, info.priority, info.group = record.function, record.level or None, record.group or None
        info.enqueued_at = from_ms(record.stamp)
        info.expires_at = from_ms(record.deadline_ms) if record.deadline_ms else None
        args, kwargs, options = codec.decode_body(record.body)
    except Unreadable:
        return
    info.payload = _payload(args, kwargs, cipher)
    _add_options(info, options)


def _add_options(info: JobInfo, options: Any) -> None:
    if not isinstance(options, dict):
        return
    tries, tags = options.get("n"), options.get("g")
    info.max_tries = tries if isinstance(tries, int) else None
    info.tags = [str(tag) for tag in tags] if isinstance(tags, list) else []


def _payload(args: Any, kwargs: Any, cipher: JobCipher | None) -> Any:
    """A payload to look at, as it was given: one mapping of fields, else the positional or keyword arguments."""
    if is_sealed(args):
        plain = shown(args, "payload", cipher)
        return plain if cipher is None else _payload(plain, kwargs, cipher)
    args, kwargs = shown(args, "field", cipher), shown(kwargs, "field", cipher)
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return None
    if len(args) == 1 and not kwargs:
        return args[0]
    return {"args": args, "kwargs": kwargs} if args and kwargs else args or kwargs


def _add_result(info: JobInfo, result: dict[str, Any], cipher: JobCipher | None) -> None:
    info.function = info.function or result["f"] or None
    info.tries = result["t"] if info.state in (JobState.COMPLETED, JobState.FAILED) else info.tries
    info.enqueued_at = info.enqueued_at or (from_ms(result["et"]) if result["et"] else None)
    info.started_at = from_ms(result["st"]) if result.get("st") else None
    info.finished_at = from_ms(result["ft"]) if result.get("ft") else None
    if info.payload is None and "a" in result:
        info.payload = _payload(result["a"], result.get("k") or {}, cipher)
        # Its record is gone: what it was enqueued with stands in the result, too.
        _add_options(info, result.get("o"))
    if info.state is JobState.COMPLETED:
        info.result, info.progress = result["r"], 100
    else:
        info.error = result["r"] if isinstance(result["r"], dict) else None
