"""Log lines: one JSON object each (or text for a terminal), every line of a job with the job's fields.

The fields are looked up when a line is formatted, from the context variable the executor sets, so that lines of any
library called inside a job carry them and a line that is not wanted costs nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from daemon.carried import request_id
from daemon.context import current_job
from daemon.errors import ConfigurationError
from daemon.keys import spoken_id

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# uvicorn repeats its message with terminal colours in this attribute.
_NOT_EXTRA = frozenset((*RESERVED_ATTRS, "color_message"))

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def configure_logging(level: str = "INFO", fmt: Literal["json", "text"] = "json", stream: TextIO | None = None) -> None:
    """Send every logger of the process to one stream; call it again to change it.

    Handlers that were installed before are removed, those of arq's and uvicorn's own loggers included.

    Args:
        level: one of `LEVELS`, in any case.
        fmt: ``json``, or ``text`` for people.
        stream: default standard error.

    Raises:
        ConfigurationError: for an unknown level or format.
    """
    if level.upper() not in LEVELS:
        raise ConfigurationError(f"log level {level!r} is not known: use {', '.join(LEVELS)}")
    if fmt not in ("json", "text"):
        raise ConfigurationError(f"log format {fmt!r} is not known: use json or text")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JobJsonFormatter() if fmt == "json" else JobTextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("arq", "arq.worker", "uvicorn", "uvicorn.error"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
    # It tells of each of its plugins when it is imported.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def job_fields() -> dict[str, Any]:
    """Give the log fields of the job whose code runs now, and of the request that is served; empty without either."""
    job, serves = current_job.get(), request_id.get()
    fields: dict[str, Any] = {"request_id": serves} if serves else {}
    if job is None:
        return fields
    return {
        "job_id": spoken_id(job.job_id), "family": job.family, "function": job.function, "try": job.job_try, **fields
    }  # fmt: skip


class JobJsonFormatter(JsonFormatter):
    """One JSON object a line: timestamp, level, logger, message, the job's fields, then extras and ``exception``."""

    def __init__(self) -> None:
        super().__init__(
            [],
            reserved_attrs=sorted(_NOT_EXTRA),
            rename_fields={"exc_info": "exception", "stack_info": "stack"},
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Put the fixed fields first, and let no extra of the same name replace one."""
        fixed = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.message,
            **job_fields(),
        }
        log_data.update(fixed)
        super().add_fields(log_data, record, message_dict)
        if isinstance(record.msg, dict):
            fixed["message"] = message_dict.get("message", "")
        log_data.update(fixed)


class JobTextFormatter(logging.Formatter):
    """One line for people: local time, level, logger, the job with a short id, message, extras as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; control characters are escaped, further lines indented, so that no text can fake a line."""
        job = job_fields()
        at = datetime.fromtimestamp(record.created).astimezone()
        words = [f"{at:%H:%M:%S}.{int(record.msecs):03d}", f"{record.levelname:<7}", record.name]
        if "job_id" in job:
            words.append(f"[{_short(job['job_id'])} {job['function']} try {job['try']}]")
        words.append(record.getMessage())
        extras = merge_record_extra(record, {}, _NOT_EXTRA)
        words += [word for name, value in extras.items() if name not in job for word in _said(name, value)]
        text = " ".join(words)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return text.translate(_ESCAPES).replace("\n", "\n    ")


def _said(name: str, value: Any) -> Iterator[str]:
    """Give an extra as ``name=value``, of one that has parts each: ``audit.actor=ada``, without those that are None."""
    if not isinstance(value, Mapping):
        yield f"{name}={value}"
        return
    for part, of_it in value.items():
        if of_it is not None:
            yield from _said(f"{name}.{part}", of_it)


def _timestamp(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _short(job_id: str) -> str:
    """The family and the end of a generated id (its start is a time, alike among neighbours); a short id whole."""
    family, _, name = job_id.rpartition(":")
    return job_id if len(name) <= 16 else f"{family}:…{name[-8:]}"
