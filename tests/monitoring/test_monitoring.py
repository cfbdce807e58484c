"""Metrics of a live worker by Prometheus' own tools; rules and the dashboard's queries over them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.context import JobContext
from daemon.family import Fixed
from daemon.inspector import Inspector
from daemon.metrics import MAX_FUNCTIONS
from daemon.probe.app import create_app
from daemon.process.serving import serve
from daemon.producer import Producer
from scripts.grafana import queries
from tests.docs.pages import ROOT, names, page, table
from tests.engine import eventually, make_family, until, working
from tests.servers import free_port

MONITORING = ROOT / "deploy" / "monitoring"


async def quick(ctx: JobContext, job: dict[str, Any]) -> None: ...


async def broken(ctx: JobContext, job: dict[str, Any]) -> None:
    raise ValueError


@asynccontextmanager
async def probed(url: str, heartbeats: list[Path]) -> AsyncIterator[str]:
    """Serve the probe of the family ``t``; gives its address."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with Inspector.connect(url, ["t"]) as inspector:
        app = create_app(inspector, families=["t"], heartbeats=heartbeats)
        options: dict[str, Any] = {"name": "the probe", "host": "127.0.0.1", "port": 0, "handle_signals": False}
        task = asyncio.create_task(serve(app, **options, on_listening=listening.set_result))
        try:
            yield await asyncio.wait_for(listening, 60)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def live(producer: Producer, url: str, folder: Path) -> AsyncIterator[str]:
    """Run a worker that has done something, with a probe beside it."""
    heartbeat = folder / "heartbeat.json"
    family = make_family("t", quick, broken, max_bytes="50MB")
    async with working(url, family, heartbeat=heartbeat), probed(url, [heartbeat]) as address:
        for _ in range(20):
            await producer.enqueue("quick", {}, family="t")
        await producer.enqueue("broken", {}, family="t", max_tries=1)
        await producer.enqueue("broken", {}, family="t", max_tries=2, backoff=Fixed(60))
        inspector = Inspector(producer.redis, ["t"])

        async def done() -> bool:
            queue = await inspector.queue("t")
            return (queue.completed, queue.failed, queue.delayed) == (20, 1, 1)

        await eventually(done)
        # The file is written each second.
        await until(lambda: '"retried": 1' in heartbeat.read_text())
        yield address


async def exposed(address: str) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.get(f"{address}/metrics")).text


def promtool(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, timeout=60, check=False
    )


async def test_live_metrics_pass_promtool_and_are_all_documented(
    producer: Producer, redis_url: str, tmp_path: Path
) -> None:
    async with live(producer, redis_url, tmp_path) as address:
        text = await exposed(address)
    checked = promtool("check", "metrics", given=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    told = {name for row in table(page("metrics"), "metrics") for name in names(row[0])}
    known = {
        family.name + {"counter": "_total"}.get(family.type, "") for family in families
    }  # fmt: skip
    assert known == told
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"family", "function", "outcome", "state", "server", "version", "le"}


async def test_labels_stay_few_with_many_groups_and_functions(
    producer: Producer, redis_url: str, tmp_path: Path
) -> None:
    heartbeat = tmp_path / "heartbeat.json"
    async with working(redis_url, make_family("t", quick), heartbeat=heartbeat), probed(redis_url, [heartbeat]) as at:
        jobs: list[Any] = [(("quick", {}), {"group": f"tenant-{n}"}) for n in range(1000)]
        await producer.enqueue_each(jobs, family="t")
        # Names that no worker knows: whatever a producer writes, these become metrics once they are aborted or expire.
        jobs = [((f"unknown-{n}", {}), {"expires": 0.001}) for n in range(300)]
        await producer.enqueue_each(jobs, family="t")

        async def done() -> bool:
            queue = await Inspector(producer.redis, ["t"]).queue("t")
            return (queue.waiting, queue.active, queue.completed) == (0, 0, 1000)

        await eventually(done)
        await until(lambda: '"completed": 1000' in heartbeat.read_text())
        text = await exposed(at)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    functions = {sample.labels["function"] for sample in samples if "function" in sample.labels}
    assert "tenant-" not in text
    assert len(functions) <= MAX_FUNCTIONS + 1
    # Two histograms and the outcomes of each function, and a fixed number beside them.
    assert len(samples) < 60 * len(functions) + 80


def test_rules_are_right_and_do_what_their_tests_say() -> None:
    assert promtool("check", "rules", str(MONITORING / "arqd.rules.yaml")).returncode == 0
    tested = promtool("test", "rules", str(MONITORING / "arqd.rules.test.yaml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_dashboard_is_what_the_script_makes() -> None:
    done = subprocess.run([sys.executable, "scripts/grafana.py", "--check"], cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, "run python scripts/grafana.py"


async def test_every_query_of_the_dashboard_resolves(producer: Producer, redis_url: str, tmp_path: Path) -> None:
    async with live(producer, redis_url, tmp_path) as address:
        config = tmp_path / "prometheus.yaml"
        jobs = [{"job_name": "arqd", "static_configs": [{"targets": [address.removeprefix("http://")]}]}]
        config.write_text(json.dumps({"global": {"scrape_interval": "200ms"}, "scrape_configs": jobs}))
        at = f"127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data",
                   f"--web.listen-address={at}", "--log.level=error"]  # fmt: skip
        server = await asyncio.create_subprocess_exec(*command)
        try:
            await asks(producer, f"http://{at}/api/v1/query")
        finally:
            server.terminate()
            await server.wait()


async def asks(producer: Producer, url: str) -> None:
    """Ask every query until it gives something; jobs go on meanwhile, since rates need a change."""
    left = {query.replace("$family", ".*").replace("$__rate_interval", "1m") for query in queries()}
    assert len(left) > 20
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

        async def answered(query: str) -> bool:
            try:
                answer = await client.get(url, params={"query": query})
            except httpx.TransportError:
                return False
            assert answer.status_code in (200, 503), (query, answer.text)
            values = [each["value"][1] for each in answer.json()["data"]["result"]] if answer.is_success else []
            return bool(values) and "NaN" not in values

        async def all_answered() -> bool:
            await producer.enqueue("quick", {}, family="t")
            await producer.enqueue("broken", {}, family="t", max_tries=1)
            left.difference_update([query for query in sorted(left) if await answered(query)])
            return not left

        try:
            await eventually(all_answered, 120)
        except AssertionError:
            pytest.fail(f"no answer to {sorted(left)}")
