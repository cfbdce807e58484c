"""What the settings turn on: spans reach a collector, and a library that is missing is named."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack

import pytest

from daemon import carried
from daemon.errors import ConfigurationError
from daemon.instruments import remove_instruments
from daemon.producer import Producer
from daemon.settings import Settings, load_settings
from daemon.telemetry import telemetry
from tests.handlers.receiver import Receiver


def settings(**values: str) -> Settings:
    return load_settings({f"ARQD_{name}": value for name, value in values.items()})


async def test_spans_reach_the_collector_when_the_process_ends(producer: Producer) -> None:
    async with Receiver() as receiver:
        stack = ExitStack()
        stack.enter_context(telemetry(settings(TRACES__ENDPOINT=f"{receiver.url}/", TRACES__SERVICE="shop")))
        try:
            await producer.enqueue("greet", {}, family="t")
            # What is left is sent while the caller waits.
            await asyncio.to_thread(stack.close)
        finally:
            remove_instruments()
            carried.inject_with(None)
    (request,) = receiver.taken
    assert (request.path, request.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    assert b"enqueue t" in request.body
    assert b"shop" in request.body


@pytest.mark.parametrize(
    ("values", "module", "extra"),
    [
        ({"TRACES__ENDPOINT": "http://127.0.0.1:1"}, "daemon.tracing", "traces"),
        ({"SENTRY__DSN": "https://key@127.0.0.1/1"}, "daemon.error_reports", "sentry"),
    ],
)
def test_a_library_that_is_missing_is_named(
    values: dict[str, str], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"install arqd\[{extra}\]"), telemetry(settings(**values)):
        pass


def test_without_settings_nothing_is_turned_on() -> None:
    with telemetry(settings()):
        assert not carried.is_carried({})
