"""The heartbeat file: written from the event loop, whole at any moment, gone after a clean stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import ConfigurationError
from daemon.process.heartbeat import Heartbeat, default_path, read_heartbeat


@asynccontextmanager
async def running(heartbeat: Heartbeat) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(heartbeat.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_it_writes_at_once_and_again_and_removes_the_file_when_stopped(tmp_path: Path) -> None:
    path = tmp_path / "made" / "heartbeat.json"
    times = iter(range(100, 100_000))
    heartbeat = Heartbeat(path, lambda: {"state": "running"}, 0.01, clock=lambda: next(times))
    async with running(heartbeat):
        await until(path.exists)
        assert (read_heartbeat(path) or {})["state"] == "running"
        await until(lambda: (read_heartbeat(path) or {})["time"] > 101)
    assert list(path.parent.iterdir()) == []


async def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    heartbeat = Heartbeat(path, lambda: {"filler": "x" * 200_000}, 60)

    def read_all() -> set[bool]:
        return {len(json.loads(path.read_bytes())["filler"]) == 200_000 for _ in range(50)}

    async with running(heartbeat):
        await until(path.exists)
        reading = asyncio.create_task(asyncio.to_thread(read_all))
        while not reading.done():
            heartbeat.beat()
            await asyncio.sleep(0)
        assert await reading == {True}


async def test_another_user_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    before = os.umask(0o077)
    try:
        async with running(Heartbeat(path, dict, 60)):
            await until(path.exists)
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)


async def test_a_blocked_event_loop_shows_as_lag(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    async with running(Heartbeat(path, dict, 0.01)):
        await until(path.exists)
        time.sleep(0.2)  # noqa: ASYNC251 - a loop that is late is what is tested
        await until(lambda: (read_heartbeat(path) or {})["loop_lag_seconds"] > 0.1)


async def test_a_place_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="ARQD_HEARTBEAT_FILE"):
        await Heartbeat(tmp_path / "file" / "heartbeat.json", dict).run()


async def test_a_later_write_error_is_told_once_and_overcome(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run" / "heartbeat.json"
    heartbeat = Heartbeat(path, dict, 60)
    async with running(heartbeat):
        await until(path.exists)
        path.parent.rename(tmp_path / "away")
        with caplog.at_level(logging.WARNING):
            heartbeat.beat()
            heartbeat.beat()
        assert len(caplog.records) == 1
        (tmp_path / "away").rename(path.parent)
        path.unlink()
        heartbeat.beat()
        assert read_heartbeat(path) is not None


async def test_a_snapshot_that_fails_ends_the_task(tmp_path: Path) -> None:
    calls = []

    def snapshot() -> dict[str, Any]:
        calls.append(1)
        if len(calls) > 1:
            raise LookupError("a bug")
        return {}

    with pytest.raises(LookupError):
        await Heartbeat(tmp_path / "heartbeat.json", snapshot, 0.001).run()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe"])
def test_what_is_not_a_heartbeat_reads_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "heartbeat.json"
    assert read_heartbeat(path) is None
    path.write_bytes(content)
    assert read_heartbeat(path) is None


def test_the_default_place_follows_the_environment() -> None:
    uid = os.getuid()
    assert default_path({"RUNTIME_DIRECTORY": "/run/arqd:/run/other"}) == Path("/run/arqd/heartbeat.json")
    assert default_path({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/arqd/heartbeat.json")
    assert default_path({}) == Path(f"/tmp/arqd-{uid}/heartbeat.json")
    assert default_path({"TMPDIR": "/scratch"}) == Path(f"/scratch/arqd-{uid}/heartbeat.json")
