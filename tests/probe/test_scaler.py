"""KEDA's external scaler, asked by a gRPC client as KEDA asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from daemon.errors import ConfigurationError
from daemon.inspector import Inspector
from daemon.probe.scaler import SERVICE, ExternalScaler, messages
from daemon.producer import Producer
from tests.conftest import RedisServerFactory
from tests.servers import free_port


@asynccontextmanager
async def scaler(url: str) -> AsyncIterator[grpc.aio.Channel]:
    port = free_port()
    async with Inspector.connect(url, ["email", "media"]) as source:
        serving = asyncio.create_task(ExternalScaler(source, {"email": 8.0, "media": 2.4}).serve("127.0.0.1", port))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            yield channel
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def reference(**metadata: str) -> Any:
    return messages()["ScaledObjectRef"](name="arqd-worker", namespace="arqd", scalerMetadata=metadata)


async def call(channel: grpc.aio.Channel, method: str, request: Any, reply: str) -> Any:
    ask = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=messages()[reply].FromString,
    )
    return await ask(request, timeout=60)


async def metric(channel: grpc.aio.Channel, **metadata: str) -> tuple[float, float]:
    """Give target and value of a trigger, the way of KEDA: first the name, then the value of it."""
    spec = (await call(channel, "GetMetricSpec", reference(**metadata), "GetMetricSpecResponse")).metricSpecs[0]
    request = messages()["GetMetricsRequest"](scaledObjectRef=reference(**metadata), metricName=spec.metricName)
    value = (await call(channel, "GetMetrics", request, "GetMetricsResponse")).metricValues[0]
    assert value.metricName == spec.metricName
    assert value.metricValue == round(value.metricValueFloat)
    return spec.targetSizeFloat, value.metricValueFloat


async def test_keda_hears_of_the_load(redis_url: str, producer: Producer) -> None:
    async with scaler(redis_url) as channel:
        assert not (await call(channel, "IsActive", reference(family="email"), "IsActiveResponse")).result
        assert await metric(channel, family="email") == (8.0, 0.0)
        for _ in range(3):
            await producer.enqueue("send_email", {}, family="email")
        await producer.enqueue("send_email", {}, family="email", delay=600)
        assert (await call(channel, "IsActive", reference(family="email"), "IsActiveResponse")).result
        assert await metric(channel, family="email", target="20") == (20.0, 3.0)
        assert (await metric(channel, family="email", figure="oldest_age_seconds"))[1] >= 0
        # Nobody works it: how long it takes is not known, so as many replicas as there are, and the first one starts.
        assert await metric(channel, family="email", figure="drain_seconds", target="30") == (30.0, 30.0)
        assert await metric(channel, family="media", figure="drain_seconds", target="30") == (30.0, 0.0)
        assert await metric(channel, family="media", figure="oldest_age_seconds") == (2.4, 0.0)
        assert await metric(channel, family="media") == (2.4, 0.0)


async def test_a_stream_tells_changes(redis_url: str, producer: Producer) -> None:
    async with scaler(redis_url) as channel:
        stream = channel.unary_stream(
            f"/{SERVICE}/StreamIsActive",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages()["IsActiveResponse"].FromString,
        )(reference(family="email"))
        assert not (await asyncio.wait_for(stream.read(), 60)).result
        job = await producer.enqueue("send_email", {}, family="email")
        assert (await asyncio.wait_for(stream.read(), 60)).result
        await job.abort()
        assert not (await asyncio.wait_for(stream.read(), 60)).result
        stream.cancel()


@pytest.mark.parametrize(
    ("metadata", "told"),
    [({}, "family: '' is none of email, media"), ({"family": "email", "figure": "x"}, "figure: 'x' is none of load"),
     ({"family": "email", "target": "-1"}, "target: '-1' is no number above 0"),
     ({"family": "email", "target": "inf"}, "target: 'inf' is no number above 0"),
     ({"family": "email", "target": "nan"}, "target: 'nan' is no number above 0")],
)  # fmt: skip
async def test_a_wrong_trigger_is_told(redis_url: str, metadata: dict[str, str], told: str) -> None:
    async with scaler(redis_url) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, "GetMetricSpec", reference(**metadata), "GetMetricSpecResponse")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert told in (error.value.details() or "")


async def test_without_redis_there_is_no_answer(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with scaler(server.url) as channel:
        assert not (await call(channel, "IsActive", reference(family="email"), "IsActiveResponse")).result
        server.kill()
        for method, reply in (("IsActive", "IsActiveResponse"),):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(channel, method, reference(family="email"), reply)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_port_that_is_taken_is_a_wrong_configuration(redis_url: str) -> None:
    async with Inspector.connect(redis_url, ["email"]) as source:
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            await ExternalScaler(source, {"email": 8.0}).serve("192.0.2.1", 1)
