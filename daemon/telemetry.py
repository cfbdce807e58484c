"""Traces and reports of errors, as the settings ask for them: the sections ``traces`` and ``sentry``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from daemon.errors import ConfigurationError

if TYPE_CHECKING:
    from daemon.settings import Settings


class TracesSettings(BaseModel):
    """Traces by OpenTelemetry (docs/tracing.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field("", description="collector's address for OTLP over HTTP, `http://localhost:4318`; none: off")
    sample: float = Field(1.0, ge=0, le=1, description="share of the traces that begin here which are kept, 0 to 1")
    service: str = Field("arqd", min_length=1, description="name of the service in them")


class SentrySettings(BaseModel):
    """Errors in Sentry (docs/tracing.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    dsn: SecretStr | None = Field(None, description="where dead letters are reported; none: nowhere")
    environment: str = Field("", description="environment as Sentry shows it, e.g. `production`")
    retries: bool = Field(False, description="report tries that are made again as well, as warnings")
    payload: bool = Field(False, description="tell what the job carries, too, and the variables of each frame")


@contextmanager
def telemetry(settings: Settings) -> Iterator[None]:
    """Trace and report until the block ends, and then send what is left.

    Raises:
        ConfigurationError: when a library is not installed.
    """
    with ExitStack() as stack:
        if settings.traces.endpoint:
            stack.callback(_trace(settings.traces))
        if settings.sentry.dsn is not None:
            stack.callback(_report(settings.sentry, settings.sentry.dsn))
        yield


def _trace(settings: TracesSettings) -> Callable[[], None]:
    try:
        from daemon.tracing import tracer_of
    except ImportError:
        raise ConfigurationError("ARQD_TRACES__ENDPOINT needs OpenTelemetry: install arqd[traces]") from None
    return tracer_of(settings.endpoint, settings.sample, settings.service)


def _report(settings: SentrySettings, dsn: SecretStr) -> Callable[[], None]:
    try:
        from daemon.error_reports import end_reports, report_to
    except ImportError:
        raise ConfigurationError("ARQD_SENTRY__DSN needs Sentry's library: install arqd[sentry]") from None
    report_to(
        dsn.get_secret_value(),
        environment=settings.environment,
        payload=settings.payload,
        retries=settings.retries,
    )
    return end_reports
