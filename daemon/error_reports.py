"""Errors in Sentry: dead letters, and if wanted tries that failed, with the job's tags and without what it carries.

`report_to` turns it on for a process; nothing of Sentry's library is imported before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sentry_sdk
from pydantic_core import PydanticSerializationError, to_jsonable_python

from daemon import __version__, codec
from daemon.carried import REQUEST
from daemon.errors import ConfigurationError
from daemon.instruments import add_instrument
from daemon.keys import spoken_id
from daemon.running.run import Run

if TYPE_CHECKING:
    from daemon.broker import Outcome


#: How long the end of a process waits for what is left, seconds.
FLUSH_SECONDS = 2.0


def report_to(dsn: str, *, environment: str = "", payload: bool = False, retries: bool = False, **options: Any) -> None:
    """Report the errors of jobs that this process's workers run.

    Raises:
        ConfigurationError: for a DSN that is none.

    Args:
        environment: as Sentry shows it.
        payload: tell what the job carries and the variables of each frame, too; an encrypted family's never.
        retries: report tries that are made again, as warnings.
        options: of ``sentry_sdk.init``.
    """
    try:
        sentry_sdk.init(
            dsn,
            environment=environment or None,
            release=f"arqd@{__version__}",
            # Its integrations would take log lines, in which anything may stand, and report what is tried again.
            default_integrations=False,
            auto_enabling_integrations=False,
            send_default_pii=False,
            include_local_variables=payload,
            **options,
        )
    except sentry_sdk.utils.BadDsn:
        raise ConfigurationError("ARQD_SENTRY__DSN: write https://KEY@host/project, as Sentry shows it") from None
    add_instrument(_Reports(payload=payload, retries=retries))


def end_reports() -> None:
    """Send what is left."""
    sentry_sdk.flush(FLUSH_SECONDS)


class _Reports:
    """See `daemon.instruments.Instrument`."""

    def __init__(self, *, payload: bool, retries: bool) -> None:
        self._payload, self._retries = payload, retries

    def begin(self, run: Run, family: str) -> None:
        """Sentry is told of errors alone."""

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        """See `begin`."""

    def failed(self, run: Run, error: BaseException, family: str, reason: str | None, *, hidden: bool) -> None:
        if reason is None and not self._retries:
            return
        with _scope(run, family, reason) as scope:
            if self._payload and not hidden:
                scope.set_context("payload", _shown(run))
            if hidden:
                # Its text, and what stands in its frames, may tell what is encrypted.
                sentry_sdk.capture_message(f"{codec.type_of(error)} in {run.name}", level=_level(reason))
            else:
                sentry_sdk.capture_exception(error)


def _level(reason: str | None) -> Any:
    return "warning" if reason is None else "error"


@contextmanager
def _scope(run: Run, family: str, reason: str | None) -> Iterator[sentry_sdk.Scope]:
    with sentry_sdk.new_scope() as scope:
        scope.set_level(_level(reason))
        scope.set_transaction_name(f"{family}/{run.name}")
        tags = {"family": family, "function": run.name, "job_id": spoken_id(run.job_id), "try": run.job_try}
        if serves := (run.options or {}).get(REQUEST):
            tags["request_id"] = serves
        for name, value in {**tags, "outcome": "retried" if reason is None else "failed"}.items():
            scope.set_tag(name, str(value))
        about = {"max_tries": run.max_tries, "tags": (run.options or {}).get("g") or [], "reason": reason or ""}
        scope.set_context("job", about)
        yield scope


def _shown(run: Run) -> dict[str, Any]:
    try:
        return {"args": to_jsonable_python(run.args), "kwargs": to_jsonable_python(run.kwargs)}
    except (PydanticSerializationError, ValueError):
        return {"args": "cannot be shown"}
