"""The probe on a real port, with a real heartbeat beside it, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.errors import ConfigurationError
from daemon.probe.app import create_app
from daemon.process.heartbeat import Heartbeat
from daemon.process.serving import serve
from tests.probe.support import NeverAsked, document


@asynccontextmanager
async def served(*heartbeats: Path, **options: Any) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    app = create_app(NeverAsked(), families=["email"], heartbeats=heartbeats)
    where: dict[str, Any] = {"name": "the probe", "host": "127.0.0.1", "port": 0}
    task = asyncio.create_task(serve(app, **where, on_listening=listening.set_result, **options))
    try:
        yield await asyncio.wait_for(listening, 60), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_status(url: str, status: int) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False, timeout=60) as client:
        while (await client.get(url)).status_code != status:
            await asyncio.sleep(0.01)


async def test_it_follows_a_worker_from_start_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "heartbeat.json"
    state = {"state": "starting"}
    heartbeat = Heartbeat(path, lambda: document(**state), 0.01)
    caplog.set_level(logging.DEBUG, "uvicorn")
    async with served(path, handle_signals=False) as (url, _):
        await until_status(f"{url}/livez", 503)
        worker = asyncio.create_task(heartbeat.run())
        await until_status(f"{url}/livez", 200)
        await until_status(f"{url}/startupz", 503)
        state["state"] = "running"
        await until_status(f"{url}/startupz", 200)
        await until_status(f"{url}/readyz", 200)
        state["state"] = "draining"
        await until_status(f"{url}/readyz", 503)
        await until_status(f"{url}/livez", 200)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await until_status(f"{url}/livez", 503)
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_head_has_no_body_and_other_methods_are_refused() -> None:
    async with served(handle_signals=False) as (url, _), httpx.AsyncClient(trust_env=False, timeout=60) as client:
        head = await client.head(f"{url}/livez")
        assert (head.status_code, head.content) == (200, b"")
        assert "server" not in head.headers
        post = await client.post(f"{url}/livez")
        assert (post.status_code, json.loads(post.content)["status"]) == (405, 405)
        assert post.headers["allow"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_good_order(number: signal.Signals) -> None:
    async with served() as (url, task):
        await until_status(f"{url}/livez", 200)
        signal.raise_signal(number)
        async with asyncio.timeout(60):
            await task
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                await client.get(f"{url}/livez")


async def test_cancelling_closes_the_port() -> None:
    async with served(handle_signals=False) as (url, task):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                await client.get(f"{url}/livez")


async def test_a_taken_port_is_a_configuration_error() -> None:
    async with served(handle_signals=False) as (url, _):
        port = httpx.URL(url).port
        assert port is not None
        app = create_app(NeverAsked(), families=[])
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1 port {port}"):
            await serve(app, name="the probe", host="127.0.0.1", port=port, handle_signals=False)
