"""Processes of jobs: what they give, what limits them, and that none of them outlives its job."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handlers.integrations.processes import (
    InputRefused,
    OutOfMemory,
    ProcessCrashed,
    Processes,
    ProcessFailed,
    scratch,
)
from tests.engine import until

DO = "tests.handlers.integrations.calls:do"
MEMORY = 100_000_000


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    found = Processes(1, memory=MEMORY)
    yield found
    await found.close()


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def pid_of(processes: Processes) -> int:
    return int((await processes.run(DO, {"do": "tell"}))["pid"])


async def test_a_process_is_kept_and_has_nothing_of_the_environment(processes: Processes) -> None:
    first = await processes.run(DO, {"do": "tell"})
    second = await processes.run(DO, {"do": "tell"})
    assert first == second
    assert first["nice"] == os.nice(0) + 10
    assert set(first["environment"]) <= {"PATH", "LC_CTYPE"}


async def test_files_and_progress(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc" * 100_000)
    told = []

    async def tell(at: Mapping[str, Any]) -> None:
        told.append(at)

    with (tmp_path / "source").open("rb") as source:
        async with scratch(tmp_path) as target:
            assert await processes.run(DO, {"do": "files"}, [source, target], tell=tell) == {"read_only": True}
            target.seek(0)
            assert target.read() == b"cba" * 100_000
            assert _names(tmp_path) == ["source"], "it has no name"
    assert told == [{"at": 50}]


@pytest.mark.parametrize(
    ("request_", "error", "text", "kept"),
    [
        ({"do": "refuse"}, InputRefused, "not this one", True),
        ({"do": "raise"}, ProcessFailed, "RuntimeError: unforeseen", True),
        ({"do": "use", "bytes": 2 * MEMORY}, OutOfMemory, "more than the 100 MB of memory", False),
        ({"do": "die", "signal": 11}, ProcessCrashed, "ended by itself .signal 11", False),
        ({"do": "die", "signal": 9}, ProcessFailed, "ended by itself .signal 9", False),
    ],
)
async def test_what_goes_wrong_is_told(
    processes: Processes, request_: dict[str, Any], error: type[Exception], text: str, kept: bool
) -> None:
    before = await pid_of(processes)
    with pytest.raises(error, match=text):
        await processes.run(DO, request_)
    assert (await pid_of(processes) == before) is kept
    assert (await processes.run(DO, {"do": "use", "bytes": MEMORY // 2}))["used"] == MEMORY // 2


async def test_a_cancelled_job_takes_its_process_along(processes: Processes) -> None:
    pids: list[int] = []

    async def tell(at: Mapping[str, Any]) -> None:
        pids.append(at["pid"])

    job = asyncio.create_task(processes.run(DO, {"do": "sleep"}, tell=tell))
    (pid,) = await until(lambda: pids, 30)
    waits = asyncio.create_task(pid_of(processes))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await waits != pid


async def test_closing_ends_all(processes: Processes) -> None:
    pid = await pid_of(processes)
    await processes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
