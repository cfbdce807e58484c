"""What can be asked of a job when it is handed over, checked and turned into what the enqueue script takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from daemon import codec, lazily
from daemon.broker import NewJob
from daemon.carried import along, is_carried
from daemon.encryption import JobCipher
from daemon.errors import InvalidJob
from daemon.job import new_id, priority_level, seconds
from daemon.keys import FamilyKeys
from daemon.producing.keep import Keep, checked_keep
from daemon.records import record_tail

if TYPE_CHECKING:
    from daemon.payload import Payload
    from daemon.producing.handle import JobHandle, SyncJobHandle
    from daemon.retry import Backoff

LATEST_DUE_MS = 2**45
#: What belongs to one job.
_OF_ONE = ("job_id", "run_at", "template", "request_id", "depends_on")
DEDUP_MODES = ("drop", "replace", "debounce")


class JobOptions(TypedDict, total=False):
    """Options of a job.

    Keys:
        priority: 1 (first) to 10 (last) or a name; default the payload's, else the family's.
        delay: run it so many seconds from now (or ``"15m"``).
        run_at: run it at this time, an aware datetime; one in the past runs at once.
        job_id: an id of one's own, unique while the job, its result or its dead letter exists.
        expires: do not start it later than so many seconds from now.
        max_tries: total tries, at least 1.
        timeout: limit of one try in seconds.
        backoff: waits between tries.
        tags: words to find it by.
        keep: how long it is kept once it has ended, or how many such jobs are, by ``completed`` and ``failed``:
            ``{"completed": "2h", "failed": "90d"}``; see `daemon.producing.keep.Keep`. Default as the family has it.
        group: a tenant or workspace; groups of the same priority take turns.
        dedup_key: while a job has this key, a repeat adds none; default what the payload's ``dedup_key()`` gives.
        dedup_window: how long it has the key, seconds; default as long as it lives.
        dedup_mode: what a repeat does: ``drop`` (default) nothing, ``replace`` gives its payload to the job that waits,
            ``debounce`` also makes it wait its ``delay`` anew.
        template: name of a preset of options (`Producer.template`); options beside it win.
        request_id: what the request is called that it serves, for its log lines; jobs it enqueues inherit it.
        depends_on: ids or handles of jobs that must have completed before it starts; it fails when one of them does.
    """

    priority: int | str
    delay: float | str
    run_at: datetime
    job_id: str
    expires: float | str
    max_tries: int
    timeout: float | str
    backoff: Backoff
    tags: Sequence[str]
    keep: Keep
    group: str
    dedup_key: str
    dedup_window: float | str
    dedup_mode: Literal["drop", "replace", "debounce"]
    template: str
    request_id: str
    depends_on: Sequence[str | JobHandle | SyncJobHandle]


def job_name(options: JobOptions) -> str:
    """Give the id a job is to have, a new one where none is asked for.

    Raises:
        InvalidJob: for an id that is none.
    """
    job_id: Any = options.get("job_id")
    if job_id is None:
        return new_id()
    if not isinstance(job_id, str) or not job_id.isprintable() or not 0 < len(job_id) <= 256:
        raise InvalidJob(f"job_id {str(job_id)[:40]!r} must be plain text of 1 to 256 characters, or left out")
    return job_id


def as_arguments(body: bytes) -> bytes:
    """Give a payload's JSON as that of a job's positional arguments: one, unless it is a list."""
    return body if body[:1] == b"[" else b"[" + body + b"]"


def new_job(
    keys: FamilyKeys,
    function: str,
    args: bytes,
    level: int,
    options: JobOptions,
    schema: str = "",
    cipher: JobCipher | None = None,
) -> NewJob:
    """Give the job to add.

    Args:
        args: its positional arguments, a JSON array.
        level: its payload's priority, 0 for the family's.
        schema: its payload's `daemon.payload.schema_mark`; none where its class is not known.
        cipher: of the id it is to have; of an encrypted family it encrypts the arguments and hides the dedup key.

    Raises:
        InvalidJob: for an unknown or wrong option, saying what is accepted.
    """
    whole = cipher if cipher is not None and cipher.whole else None
    carries = is_carried(options)
    if not options and not carries:
        job_id = cipher.job_id if cipher is not None else keys.prefix + new_id()
        body = codec.encode_body(args, cipher=whole)
        return NewJob(job_id, level, "now", 0, 0, 0, record_tail(function, "", body, schema))
    _refuse_unknown(options, JobOptions.__annotations__)
    if options.get("depends_on"):
        raise InvalidJob("depends_on belongs to one job: use enqueue for it, or enqueue_flow")
    when, ms = _due(options)
    if options.get("priority") is not None:
        level = priority_level(options["priority"])
    job_id = cipher.job_id if cipher is not None else keys.job_id(job_name(options))
    # When it is due, as far as it was asked for: what it waits before does not count as waiting.
    carried: dict[str, Any] = {} if when == "now" else {"d" if when == "in" else "u": ms}
    if carries:
        carried |= along(options, job_id, keys.family, function)
    max_tries: Any = options.get("max_tries")
    if max_tries is not None:
        if isinstance(max_tries, bool) or not isinstance(max_tries, int) or max_tries < 1:
            raise InvalidJob(f"max_tries is the total number of tries, at least 1, not {max_tries!r}")
        carried["n"] = max_tries
    backoff = options.get("backoff")
    if backoff is not None:
        if not isinstance(backoff, lazily.Backoff):
            raise InvalidJob(f"backoff {backoff!r} is not one: use Exponential(...) or Fixed(...) of daemon.family")
        carried["b"] = backoff.as_json()
    tags = options.get("tags")
    if tags:
        if isinstance(tags, str | bytes) or not isinstance(tags, Sequence):
            raise InvalidJob(f"tags {tags!r} is not a list of words")
        carried["g"] = [str(tag) for tag in tags]
    if options.get("keep") is not None:
        carried["k"] = checked_keep(options["keep"])
    body = codec.encode_body(args, carried, whole)
    group: Any = options.get("group") or ""
    if not isinstance(group, str) or len(group) > 128 or (group and not group.isprintable()):
        raise InvalidJob(f"group {str(group)[:40]!r} must be plain text of at most 128 characters")
    timeout, expires = _positive_ms(options, "timeout"), _positive_ms(options, "expires")
    tail = record_tail(function, group, body, schema)
    return NewJob(job_id, level, when + _dedup(options, whole), ms, timeout, expires, tail)


def with_own_keys(job: Payload, options: JobOptions) -> JobOptions:
    """Add the group and the dedup key of a payload that has them; without a key nothing is said of it."""
    if options.get("group") is None and (group := job.group_key()) is not None:
        options = {**options, "group": group}
    if options.get("dedup_key") is None:
        key = job.dedup_key()
        if key is not None:
            return {**options, "dedup_key": key}
        options = options.copy()
        options.pop("dedup_mode", None)
        options.pop("dedup_window", None)
    return options


def checked_template(name: str, options: Mapping[str, Any]) -> JobOptions:
    """Give the options of a template, checked as far as they can be without a job.

    Raises:
        InvalidJob: naming the template, for an unknown or wrong option.
    """
    # What belongs to one job cannot be preset.
    known = [option for option in JobOptions.__annotations__ if option not in _OF_ONE]
    try:
        _refuse_unknown(options, known)
        example = {"dedup_key": "key", "delay": 0, **options}
        new_job(FamilyKeys.of("family"), "function", b"[]", 0, cast(JobOptions, example))
    except InvalidJob as error:
        raise InvalidJob(f"template {name!r}: {error}") from None
    return cast(JobOptions, dict(options))


def _refuse_unknown(options: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = options.keys() - set(known)
    if unknown:
        raise InvalidJob(f"unknown options {sorted(unknown)}; known are {', '.join(known)}")


def _dedup(options: JobOptions, cipher: JobCipher | None) -> str:
    """Give what the enqueue script takes behind `NewJob.when`: mode, window in ms and key."""
    key: Any = options.get("dedup_key")
    mode, window = options.get("dedup_mode"), _positive_ms(options, "dedup_window")
    if mode is not None and mode not in DEDUP_MODES:
        raise InvalidJob(f"dedup_mode {mode!r} is not one of {', '.join(DEDUP_MODES)}")
    if not key:
        if mode is not None or window:
            raise InvalidJob("dedup_mode and dedup_window say what a dedup_key does: give that too")
        return ""
    if not isinstance(key, str) or not key.isprintable() or len(key) > 256:
        raise InvalidJob(f"dedup_key {str(key)[:40]!r} must be plain text of at most 256 characters")
    if mode == "debounce" and options.get("delay") is None:
        raise InvalidJob("dedup_mode 'debounce' makes a job wait its delay anew: give delay too")
    return f" {mode or 'drop'} {window} {key if cipher is None else cipher.digest(key)}"


def _positive_ms(options: JobOptions, name: str) -> int:
    value = options.get(name)
    if value is None:
        return 0
    ms = round(seconds(value) * 1000)  # type: ignore[arg-type]
    if ms < 1:
        raise InvalidJob(f"{name} must be more than 0 seconds, not {value!r}")
    return ms


def _due(options: JobOptions) -> tuple[str, int]:
    delay, run_at = options.get("delay"), options.get("run_at")
    if delay is not None and run_at is not None:
        raise InvalidJob("give delay or run_at, not both")
    if delay is not None:
        return "in", round(seconds(delay) * 1000)
    if run_at is None:
        return "now", 0
    if getattr(run_at, "tzinfo", None) is None:
        raise InvalidJob(f"run_at {run_at!r} has no time zone: pass an aware datetime, e.g. datetime.now(UTC)")
    ms = round(run_at.timestamp() * 1000)
    if ms >= LATEST_DUE_MS:
        raise InvalidJob(f"run_at {run_at.isoformat()} is too far away: the last year is 3084")
    return "at", max(ms, 0)
