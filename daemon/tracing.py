"""Traces by OpenTelemetry: a span where a job is handed over, one for its wait, one for each try.

The context of the first travels in the job's record, so that a job that enqueues others, in whatever process, is in one
trace with them. Names and attributes follow OpenTelemetry's conventions for messaging. `trace_with` turns it on for a
process; nothing of it is imported before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import random
from typing import TYPE_CHECKING, Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)

from daemon import __version__, codec
from daemon.carried import TRACE, inject_with, request_id
from daemon.instruments import add_instrument
from daemon.keys import spoken_id
from daemon.metrics import OUTCOME_OF_KIND
from daemon.running.observer import waited_seconds
from daemon.running.run import Run

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from daemon.broker import Outcome

SYSTEM = "arqd"
_NANOSECONDS = 1_000_000_000
#: The context of a job whose trace is not kept: what it does is not recorded, either.
_LEFT_OUT = trace.set_span_in_context(NonRecordingSpan(SpanContext(1, 1, is_remote=True)), contexts.Context())
_tracers: list[tuple[Tracer, float]] = []


def trace_with(provider: TracerProvider | None = None, *, share: float = 1.0) -> None:
    """Trace what this process enqueues and the jobs that its workers run.

    Args:
        provider: where spans go; default the process's own, as a service that traces already has set it.
        share: of the requests and jobs that would begin a trace, those that do; then the provider's sampler is asked.
    """
    tracer = trace.get_tracer("arqd", __version__, provider)
    _tracers.append((tracer, share))
    inject_with(_injector(tracer, share))
    add_instrument(_Tracing(tracer, share))


def tracer_of(endpoint: str, sample: float, service: str) -> Callable[[], None]:
    """Trace to a collector.

    Args:
        endpoint: its address for OTLP over HTTP, ``http://localhost:4318``.
        sample: share of the traces that begin here which are kept, 0 to 1; one that comes from outside is kept if
            its caller keeps it.
        service: name in the traces.

    Returns:
        What sends the last spans, to be called at the end.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

    resource = Resource.create({"service.name": service, "service.version": __version__})
    provider = SdkProvider(sampler=ParentBased(ALWAYS_ON), resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    trace_with(provider, share=sample)
    return provider.shutdown


def _attributes(operation: str, job_id: str, family: str, function: str) -> dict[str, Any]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": "send" if operation == "enqueue" else "process",
        "messaging.destination.name": family,
        "messaging.message.id": spoken_id(job_id),
        "arqd.function": function,
    }


def _injector(tracer: Tracer, share: float) -> Callable[[str, str, str], dict[str, str]]:
    def handed_over(job_id: str, family: str, function: str) -> dict[str, str]:
        above = trace.get_current_span().get_span_context()
        if (not above.trace_flags.sampled) if above.is_valid else _left_out(share):
            # Nobody will see this trace: a context in the record would more than double what a small job costs.
            return {}
        span = tracer.start_span(f"enqueue {family}", kind=SpanKind.PRODUCER)
        if not span.is_recording():
            return {}
        span.set_attributes(_attributes("enqueue", job_id, family, function))
        carrier: dict[str, str] = {}
        inject(carrier, trace.set_span_in_context(span))
        span.end()
        return carrier

    return handed_over


class _Tracing:
    """See `daemon.instruments.Instrument`."""

    def __init__(self, tracer: Tracer, share: float) -> None:
        self._tracer, self._share = tracer, share

    def begin(self, run: Run, family: str) -> None:
        carrier = (run.options or {}).get(TRACE)
        if carrier is None and _left_out(self._share):
            contexts.attach(_LEFT_OUT)
            return
        # A handler's task inherits whatever the worker's loop had: a job that carries nothing begins a trace.
        parent = extract(carrier if isinstance(carrier, dict) else {}, contexts.Context())
        span = self._tracer.start_span(f"process {family}", parent, SpanKind.CONSUMER)
        if span.is_recording():
            self._describe(span, run, family)
            self._wait(run, family, parent)
        contexts.attach(trace.set_span_in_context(span, parent))

    def _describe(self, span: Span, run: Run, family: str) -> None:
        span.set_attributes(_attributes("process", run.job_id, family, run.name))
        span.set_attributes({"arqd.try": run.job_try, "arqd.max_tries": run.max_tries})
        if serves := request_id.get() or (run.options or {}).get("q"):
            span.set_attribute("arqd.request_id", serves)

    def _wait(self, run: Run, family: str, parent: contexts.Context) -> None:
        """Tell how long the job waited before its first try; what a retry waited is between its spans."""
        if run.job_try > 1 or run.entry is None:
            return
        # Redis's clock said when it was enqueued, and it may be ahead.
        end = time.time_ns()
        begun = min(end, int((run.started - waited_seconds(run)) * _NANOSECONDS))
        wait = self._tracer.start_span(f"wait {family}", parent, SpanKind.INTERNAL, start_time=begun)
        wait.end(end)

    def failed(self, run: Run, error: BaseException, family: str, reason: str | None, *, hidden: bool) -> None:
        span = trace.get_current_span()
        if not span.is_recording() or not run.begun:
            return
        kind = codec.type_of(error)
        span.set_attribute("error.type", kind)
        if hidden:
            span.set_status(Status(StatusCode.ERROR, kind))
        else:
            span.set_status(Status(StatusCode.ERROR, f"{kind}: {codec.text_of(error)[:200]}"))
            if isinstance(error, Exception):
                span.record_exception(error)
        if reason is not None:
            span.set_attribute("arqd.reason", reason)

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute("arqd.outcome", OUTCOME_OF_KIND[outcome.kind] if outcome else "lost")
            span.end()


def _left_out(share: float) -> bool:
    """Decide whether a trace that would begin here is not to be kept."""
    return random() >= share  # noqa: S311


class TracedRequests:
    """Middleware: a span for every request, in its caller's trace; after `trace_with`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tracer, self._share = _tracers[-1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent, method = extract(headers, contexts.Context()), scope["method"]
        if not trace.get_current_span(parent).get_span_context().is_valid and _left_out(self._share):
            parent = _LEFT_OUT
        with self._tracer.start_as_current_span(method, parent, SpanKind.SERVER) as span:
            span.set_attributes({"http.request.method": method, "url.path": scope["path"]})

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._answered(span, scope, message["status"])
                await send(message)

            await self._app(scope, receive, told)

    @staticmethod
    def _answered(span: Span, scope: Scope, status: int) -> None:
        span.set_attribute("http.response.status_code", status)
        route = getattr(scope.get("route"), "path", None)
        if route:
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
