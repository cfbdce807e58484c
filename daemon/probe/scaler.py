"""The probe as an external scaler of KEDA (its gRPC service ``externalscaler.ExternalScaler``), where it has a port.

A trigger's metadata names the ``family``, the ``figure`` of its backlog (default ``load``) and the ``target`` of a
replica (default 0.8 of the family's ``max_jobs``). While Redis is away every call fails as unavailable: never a zero.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from daemon.errors import ConfigurationError, RedisError

if TYPE_CHECKING:
    from daemon.probe.app import BacklogSource

logger = logging.getLogger("arqd.probe")

SERVICE = "externalscaler.ExternalScaler"
#: How often a stream looks whether there is anything, seconds.
LOOK_SECONDS = 1.0
FIGURES = ("load", "backlog", "active", "oldest_age_seconds", "drain_seconds")
#: The messages of KEDA's interface: name, then its fields with their types and numbers.
_MESSAGES: Mapping[str, tuple[tuple[str, str, int], ...]] = {
    "ScaledObjectRef": (("name", "string", 1), ("namespace", "string", 2), ("scalerMetadata", "map", 3)),
    "IsActiveResponse": (("result", "bool", 1),),
    "MetricSpec": (("metricName", "string", 1), ("targetSize", "int64", 2), ("targetSizeFloat", "double", 3)),
    "GetMetricSpecResponse": (("metricSpecs", "repeated MetricSpec", 1),),
    "GetMetricsRequest": (("scaledObjectRef", "ScaledObjectRef", 1), ("metricName", "string", 2)),
    "MetricValue": (("metricName", "string", 1), ("metricValue", "int64", 2), ("metricValueFloat", "double", 3)),
    "GetMetricsResponse": (("metricValues", "repeated MetricValue", 1),),
}


@cache
def messages() -> dict[str, Any]:
    """Give the classes of KEDA's messages by name.

    Raises:
        ConfigurationError: where the libraries are missing.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise ConfigurationError("the external scaler needs packages: pip install 'arqd[keda]'") from None
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {
        "string": field.TYPE_STRING,
        "bool": field.TYPE_BOOL,
        "int64": field.TYPE_INT64,
        "double": field.TYPE_DOUBLE,
    }
    file = descriptor_pb2.FileDescriptorProto(name="externalscaler.proto", package="externalscaler", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, kind, number in fields:
            made = message.field.add(name=label, number=number, label=field.LABEL_OPTIONAL)
            if kind == "map":
                # A map is a list of entries, which are messages of their own.
                entry = message.nested_type.add(name="ScalerMetadataEntry")
                entry.options.map_entry = True
                for part, place in (("key", 1), ("value", 2)):
                    entry.field.add(name=part, number=place, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
                kind = f"repeated {name}.ScalerMetadataEntry"
            if kind.startswith("repeated "):
                made.label = field.LABEL_REPEATED
            if kind in kinds:
                made.type = kinds[kind]
            else:
                made.type, made.type_name = field.TYPE_MESSAGE, f".externalscaler.{kind.removeprefix('repeated ')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"externalscaler.{name}"))
        for name in _MESSAGES
    }


class ExternalScaler:
    """Answers KEDA.

    Args:
        source: where the figures come from.
        targets: load a replica is to have, by family, where a trigger names none.
    """

    def __init__(self, source: BacklogSource, targets: Mapping[str, float]) -> None:
        self._source, self._targets = source, targets
        self._types = messages()

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled.

        Raises:
            ConfigurationError: when the address cannot be listened on, or a library is missing.
        """
        try:
            import grpc
        except ImportError:
            raise ConfigurationError("the external scaler needs packages: pip install 'arqd[keda]'") from None
        server = grpc.aio.server()
        handlers = {
            "IsActive": self._unary(self._is_active, "ScaledObjectRef"),
            "GetMetricSpec": self._unary(self._metric_spec, "ScaledObjectRef"),
            "GetMetrics": self._unary(self._metrics, "GetMetricsRequest"),
            "StreamIsActive": grpc.unary_stream_rpc_method_handler(
                self._stream,
                request_deserializer=self._types["ScaledObjectRef"].FromString,
                response_serializer=_serialized,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigurationError(f"the external scaler cannot listen on {address}")
        await server.start()
        logger.info("KEDA's external scaler listens on port %d", bound)
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(1)

    def _unary(self, answer: Any, request: str) -> Any:
        import grpc

        async def call(message: Any, context: Any) -> Any:
            try:
                return await answer(message)
            except ValueError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except (RedisError, OSError) as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=self._types[request].FromString, response_serializer=_serialized
        )

    def _asked(self, reference: Any) -> tuple[str, str, float]:
        """Give family, figure and target of a trigger.

        Raises:
            ValueError: naming what is wrong.
        """
        given = dict(reference.scalerMetadata)
        family, figure = given.get("family", ""), given.get("figure", FIGURES[0])
        if family not in self._targets:
            raise ValueError(f"family: {family!r} is none of {', '.join(sorted(self._targets))}")
        if figure not in FIGURES:
            raise ValueError(f"figure: {figure!r} is none of {', '.join(FIGURES)}")
        try:
            target = float(given.get("target", self._targets[family]))
        except ValueError:
            target = 0
        if not 0 < target < inf:
            raise ValueError(f"target: {given['target']!r} is no number above 0")
        return family, figure, target

    async def _figure(self, reference: Any) -> float:
        family, figure, target = self._asked(reference)
        found = (await self._source.backlog(family))[figure]
        if found is None and figure == "drain_seconds":
            # Work waits, and nobody knows for how long: a zero would take workers away, and an error would keep the
            # first one from being started, since KEDA then asks no further. At its target a figure changes nothing.
            return target
        return float(found or 0)

    async def _active(self, reference: Any) -> bool:
        family, _, _ = self._asked(reference)
        # Whatever it scales by: without a worker nobody knows how long anything takes.
        return bool((await self._source.backlog(family))["load"])

    async def _is_active(self, reference: Any) -> Any:
        return self._types["IsActiveResponse"](result=await self._active(reference))

    async def _metric_spec(self, reference: Any) -> Any:
        family, figure, target = self._asked(reference)
        spec = self._types["MetricSpec"](
            metricName=f"arqd-{family}-{figure}", targetSize=max(1, round(target)), targetSizeFloat=target
        )
        return self._types["GetMetricSpecResponse"](metricSpecs=[spec])

    async def _metrics(self, request: Any) -> Any:
        figure = await self._figure(request.scaledObjectRef)
        value = self._types["MetricValue"](
            metricName=request.metricName, metricValue=round(figure), metricValueFloat=figure
        )
        return self._types["GetMetricsResponse"](metricValues=[value])

    async def _stream(self, reference: Any, context: Any) -> AsyncIterator[Any]:
        """Tell when there is something to do, and when no more."""
        import grpc

        told: bool | None = None
        while True:
            try:
                active = await self._active(reference)
            except ValueError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except (RedisError, OSError) as error:
                logger.debug("nothing told to KEDA: %s", error)
            else:
                if active is not told:
                    told = active
                    yield self._types["IsActiveResponse"](result=active)
            await asyncio.sleep(LOOK_SECONDS)


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())
