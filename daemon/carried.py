"""What a job carries along from where it is handed over: the id of the request it serves, and a trace's context.

Both are inherited: a job that is enqueued while another one runs serves the same request and belongs to the same trace.
They stand among the options in the job's record, ``"q"`` and ``"c"``.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from daemon.errors import InvalidJob

#: Letters of the options in a record.
REQUEST, TRACE = "q", "c"
LONGEST = 128

#: The request that is served now.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("arqd_request_id", default="")
_none: contextvars.ContextVar[bool] = contextvars.ContextVar("arqd_carries_nothing", default=False)

#: Gives the context of a trace for a job: its id in Redis, family and function are told (`daemon.tracing`).
Inject = Callable[[str, str, str], dict[str, str]]
_inject: Inject | None = None


def inject_with(inject: Inject | None) -> None:
    """From now on every job that is handed over carries what this gives; None: nothing."""
    global _inject  # tracing is of the whole process
    _inject = inject


def checked_request_id(value: Any) -> str:
    """Give a request's id.

    Raises:
        InvalidJob: when it is none.
    """
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST:
        raise InvalidJob(f"request_id {str(value)[:40]!r} must be plain text of at most {LONGEST} characters")
    return value


def is_traced() -> bool:
    """Whether every job carries something of its own."""
    return _inject is not None


def is_carried(options: Mapping[str, Any]) -> bool:
    """Whether a job with these options, or any now, has something to carry; asked for every job, so it is cheap."""
    return _inject is not None or bool(request_id.get()) or "request_id" in options


def along(options: Mapping[str, Any], job_id: str, family: str, function: str) -> dict[str, Any]:
    """Give what a job carries.

    Raises:
        InvalidJob: for a wrong ``request_id``.
    """
    if _none.get():
        return {}
    found: dict[str, Any] = {}
    if serves := options.get("request_id") or request_id.get():
        found[REQUEST] = checked_request_id(serves)
    if _inject is not None and (context := _inject(job_id, family, function)):
        found[TRACE] = context
    return found


@contextmanager
def nothing() -> Iterator[None]:
    """Let jobs carry nothing: those of a schedule serve no request."""
    token = _none.set(True)
    try:
        yield
    finally:
        _none.reset(token)
