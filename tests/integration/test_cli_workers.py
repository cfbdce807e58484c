"""``arqd workers`` and ``arqd profile``, of a worker whose event loop a job blocks meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from daemon.console.pages.dashboard import Dashboard
from daemon.context import JobContext
from daemon.inspector import Inspector
from daemon.process.profiler import collapsed, flame_graph
from daemon.producer import Producer
from daemon.worker import Worker
from tests.console.support import console
from tests.engine import eventually, make_family, working
from tests.integration.test_cli import Arqd, arqd, queue  # noqa: F401

#: The worker that ``spin`` blocks, until that has been noticed: a busy machine may let the watching thread wait, too.
blocked: list[Worker] = []


async def spin(ctx: JobContext, job: dict[str, Any]) -> None:
    end = time.monotonic() + 2.5
    while time.monotonic() < end or (blocked[-1].stalled is None and time.monotonic() < end + 20):
        sum(range(1000))


async def test_a_blocked_worker_is_profiled_and_its_stack_kept(
    queue: Arqd,  # noqa: F811
    redis_url: str,
    producer: Producer,
    tmp_path: Path,
) -> None:
    family = make_family("greetings", spin, lease=3)
    async with working(redis_url, family) as supervisor:
        blocked[:] = supervisor.workers
        arguments = ("profile", str(os.getpid()), "--seconds", "2", "-o", str(tmp_path / "flames.svg"))
        asked = asyncio.create_task(asyncio.to_thread(queue, *arguments))
        job = await producer.enqueue("spin", {}, family="greetings")
        done = await asked
        assert done.status == 0, done.err
        assert done.out.strip() == str(tmp_path / "flames.svg")

        async def stalled() -> Any:
            (worker,) = await Inspector(producer.redis, ["greetings"]).workers()
            return worker.stalled

        told = await eventually(stalled)
        assert (told["job_id"], told["function"]) == (job.id, "spin")
        assert told["seconds"] >= 1
        shown = await asyncio.to_thread(queue, "workers", "--stacks")
        assert f"by job {job.id}" in shown.out
        assert "in spin" in shown.out
        assert "sum(range(1000))" in shown.out
        async with console(redis_url, family, pages=Dashboard()) as found:
            shown_page = (await (await found.browser())[0].get("/workers")).text
        assert f'last blocked by <a class="id" href="/jobs/{quote(job.id, safe="")}">' in shown_page
        (listed,) = (await asyncio.to_thread(queue, "workers", "--json")).json()
        assert listed["pid"] == os.getpid()
        assert datetime.fromisoformat(listed["started"]) <= datetime.fromisoformat(listed["stalled"]["at"])
    drawn = (tmp_path / "flames.svg").read_text()
    ElementTree.fromstring(drawn)
    assert "spin (test_cli_workers.py): " in drawn


def test_a_worker_that_is_not_there_is_named(queue: Arqd) -> None:  # noqa: F811
    done = queue("profile", "1.2.3.4:5")
    assert (done.status, done.err) == (1, "arqd: '1.2.3.4:5' names no worker: there are none\n")


def test_a_flame_graph_gives_each_function_its_share() -> None:
    text = collapsed({("main", "a;b", "<c>"): 3, ("main", "d"): 1})
    assert text == "main;a,b;<c> 3\nmain;d 1"
    drawn = ElementTree.fromstring(flame_graph(text, "t & co"))
    boxes = {
        (group[0].text or "").partition(":")[0]: float(group[1].attrib["width"])
        for group in drawn.iter("{http://www.w3.org/2000/svg}g")
    }
    assert boxes == {"main": 1200, "a,b": 900, "<c>": 900, "d": 300}
    assert ElementTree.fromstring(flame_graph("", "nothing")) is not None
