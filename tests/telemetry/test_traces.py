"""Traces: one from a request through enqueue, a retry and two child jobs; nothing when they are off."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from daemon import carried
from daemon.context import JobContext
from daemon.encryption import KeyRing
from daemon.errors import PermanentError
from daemon.executor import LARGE, Executor
from daemon.family import Fixed
from daemon.instruments import remove_instruments
from daemon.job import JobState
from daemon.producer import Producer
from daemon.tracing import TracedRequests, trace_with
from tests.console.support import API, console
from tests.engine import eventually, in_state, make_family, run_burst, working

TRACEPARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What this process traces, until the test ends."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_with(provider)
    yield exporter
    remove_instruments()
    carried.inject_with(None)


async def parent(ctx: JobContext, job: dict[str, Any]) -> None:
    if ctx.job_try == 1:
        raise ValueError("not yet")
    for n in range(2):
        await ctx.producer.enqueue("child", {"n": n}, family="t")


async def child(ctx: JobContext, job: dict[str, Any]) -> None: ...


async def hopeless(ctx: JobContext, job: dict[str, Any]) -> None:
    raise PermanentError("no such user")


def tree(exporter: InMemorySpanExporter) -> dict[str, Any]:
    """Give the finished spans as a tree of names, in order of their starts; retries and children by their outcome."""
    found = sorted(exporter.get_finished_spans(), key=lambda span: (span.start_time, span.name))
    known = {span.context.span_id for span in found}

    def above(span: ReadableSpan) -> int | None:
        return span.parent.span_id if span.parent and span.parent.span_id in known else None

    def below(span_id: int | None) -> list[Any]:
        children = [
            s for s in found if (s.parent.span_id if s.parent and s.parent.span_id in known else None) == span_id
        ]
        return sorted(([said(s), below(s.context.span_id)] for s in children), key=str)

    return {"spans": below(None), "traces": {span.context.trace_id for span in found}}


def said(span: ReadableSpan) -> str:
    told = span.attributes or {}
    parts = [span.name, told.get("arqd.function"), told.get("arqd.outcome")]
    return " ".join(str(part) for part in parts if part is not None)


@pytest.mark.parametrize("payload", [{}, {"text": "x" * LARGE}], ids=["small", "large"])
async def test_one_trace_from_a_request_to_the_children_of_a_retried_job(
    redis_url: str, spans: InMemorySpanExporter, payload: dict[str, Any]
) -> None:
    family = make_family("t", parent, child, backoff=Fixed(0.01))
    async with console(redis_url, family) as found:
        found.app.add_middleware(TracedRequests)
        operator = await found.of("operator")
        body = {"function": "parent", "payload": payload, "family": "t"}
        answer = await operator.post(f"{API}/jobs", json=body, headers={"traceparent": TRACEPARENT})
        assert answer.status_code == 202
        async with working(redis_url, family):

            async def done() -> bool:
                return (await found.services.inspector.queue("t")).completed == 3

            await eventually(done)
    child_job = ["enqueue t child", [["process t child completed", []], ["wait t", []]]]
    assert tree(spans) == {
        "traces": {int("ab" * 16, 16)},
        "spans": [
            [
                "POST /jobs",
                [
                    [
                        "enqueue t parent",
                        [
                            ["process t parent completed", [child_job, child_job]],
                            ["process t parent retried", []],
                            ["wait t", []],
                        ],
                    ]
                ],
            ]
        ],
    }
    by_name = {said(span): span for span in spans.get_finished_spans()}
    request = by_name["POST /jobs"]
    assert request.parent is not None
    assert request.parent.span_id == int("cd" * 8, 16)
    assert (request.kind, dict(request.attributes or {})) == (SpanKind.SERVER, {
        "http.request.method": "POST", "url.path": "/api/v1/jobs", "http.route": "/jobs",
        "http.response.status_code": 202,
    })  # fmt: skip
    failed = by_name["process t parent retried"]
    assert failed.kind is SpanKind.CONSUMER
    assert failed.status.status_code is StatusCode.ERROR
    assert [event.name for event in failed.events] == ["exception"]
    told = dict(failed.attributes or {})
    assert told == {
        "messaging.system": "arqd", "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.destination.name": "t", "messaging.message.id": answer.json()["id"], "arqd.function": "parent",
        "arqd.try": 1, "arqd.max_tries": 5, "arqd.outcome": "retried", "error.type": "ValueError",
    }  # fmt: skip
    handed = by_name["enqueue t parent"]
    assert handed.kind is SpanKind.PRODUCER
    assert (handed.attributes or {})["messaging.operation.type"] == "send"


async def test_jobs_that_come_from_nowhere_begin_traces_of_their_own(
    redis_url: str, producer: Producer, spans: InMemorySpanExporter
) -> None:
    carried.inject_with(None)
    for _ in range(2):
        await producer.enqueue("child", {}, family="t")
    await run_burst(redis_url, make_family("t", child))
    found = [span for span in spans.get_finished_spans() if span.name == "process t"]
    assert len({span.context.trace_id for span in found}) == len(found) == 2


async def test_a_dead_letter_says_why_and_what_is_encrypted_says_nothing(
    redis_url: str, spans: InMemorySpanExporter
) -> None:
    keyring = KeyRing.parse(f"a:{base64.b64encode(secrets.token_bytes(32)).decode()}")
    async with Producer.connect(redis_url, keyring=keyring) as sealed, Producer.connect(redis_url) as clear:
        await clear.enqueue("hopeless", {}, family="t")
        await run_burst(redis_url, make_family("t", hopeless))
        handle = await sealed.enqueue("hopeless", {}, family="v")
        await run_burst(redis_url, make_family("v", hopeless, encrypted=True), keyring=keyring)
        await in_state(handle, JobState.FAILED)
    first, second = [span for span in spans.get_finished_spans() if span.name.startswith("process")]
    assert (first.attributes or {})["arqd.reason"] == "permanent"
    assert "no such user" in str(first.status.description)
    assert second.status.description == "PermanentError"
    assert second.events == ()
    assert "no such user" not in second.to_json()


async def test_sampling_is_decided_where_a_trace_begins(redis_url: str, producer: Producer) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ParentBased(TraceIdRatioBased(0)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_with(provider)
    try:
        await producer.enqueue("child", {}, family="t")
        await run_burst(redis_url, make_family("t", child))
        assert exporter.get_finished_spans() == ()
    finally:
        remove_instruments()
        carried.inject_with(None)


async def test_without_tracing_nothing_is_carried_and_the_plain_executor_runs(
    redis_url: str, producer: Producer
) -> None:
    handle = await producer.enqueue("child", {}, family="t")
    record = await producer.redis.get(f"arq:job:{{t}}:{handle.id.partition(':')[2]}")
    assert record.endswith(b"\n[{}]")
    assert Executor.chosen is Executor
