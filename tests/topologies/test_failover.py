"""A primary dies under Sentinel and in a cluster: workers outlive it, and nothing that was replicated is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from daemon.errors import RedisUnavailable
from daemon.family import Family
from daemon.inspector import Inspector
from daemon.keys import FamilyKeys
from daemon.producer import Producer
from tests.engine import eventually, make_family, working
from tests.servers import KEPT, ClusterServers, RedisServer, SentinelServers

JOBS = 200


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Servers that are ended with the test."""
    made: list[Any] = []
    yield made
    for servers in made:
        servers.kill()


async def _outlives(url: str, primary: Callable[[], RedisServer]) -> None:
    """Kill the primary while jobs run; all of them run, in the same process."""
    runs: list[int] = []

    async def work(ctx: object, n: int) -> int:
        runs.append(n)
        await asyncio.sleep(0.01)
        return n

    family = make_family("t", work, max_jobs=2, lease=2, keep_completed=None)
    async with Producer.connect(url) as producer, working(url, family) as supervisor:
        jobs = [await producer.enqueue("work", [n], family="t") for n in range(JOBS)]
        old = primary()
        with old.client() as client:
            assert client.wait(1, 30_000) == 1
        old.kill()

        async def promoted() -> bool:
            return await asyncio.to_thread(primary) is not old

        # A Sentinel that stood still for two seconds does nothing for thirty.
        await eventually(promoted, 120)
        at, before = time.monotonic(), len(runs)

        async def goes_on() -> bool:
            return len(runs) > before

        await eventually(goes_on)
        print(f"\nruns on {time.monotonic() - at:.2f} s after the promotion")
        for n, job in enumerate(jobs):
            assert await job.result(timeout=60) == n
        assert set(runs) == set(range(JOBS))
        assert supervisor.state == "running"
        again = await producer.enqueue("work", [JOBS], family="t")
        assert await again.result(timeout=60) == JOBS


async def test_sentinel_promotes_a_replica(tmp_path: Path, started: list[Any]) -> None:
    servers = SentinelServers(tmp_path, sentinels=3, down_ms=2000)
    started.append(servers)
    servers.start()
    await _outlives(servers.url, servers.primary)


def _apart(servers: ClusterServers, runs: list[int]) -> tuple[RedisServer, str, list[Family]]:
    """Give the node of the family ``t``, the name of a family of another node, and both families."""

    async def work(ctx: object, n: int) -> int:
        runs.append(n)
        return n

    def home(name: str) -> RedisServer:
        return servers.owner(key_slot(FamilyKeys.of(name).queue.encode()))

    gone = home("t")
    other = next(name for name in ("u", "v", "w", "x", "y", "z") if home(name) is not gone)
    return gone, other, [make_family(name, work, lease=2, keep_completed=None) for name in ("t", other)]


async def test_families_of_other_nodes_do_not_notice(tmp_path: Path, started: list[Any]) -> None:
    """Without a replica and without full coverage: a family whose node is gone waits, the others work."""
    servers = ClusterServers(tmp_path, timeout_ms=500, cluster_require_full_coverage="no", **KEPT)
    started.append(servers)
    servers.start()
    gone, other, families = _apart(servers, [])
    async with Producer.connect(servers.url) as producer, working(servers.url, *families) as supervisor:
        waits = await producer.enqueue("work", [1], family="t", delay=1)
        gone.kill()
        for n in range(20):
            job = await producer.enqueue("work", [n], family=other)
            assert await job.result(timeout=60) == n
            # By then the other nodes have noticed, too.
            await asyncio.sleep(0.1)
        with pytest.raises(RedisUnavailable):
            await producer.enqueue("work", [2], family="t")
        async with Inspector.connect(servers.url, ["t", other]) as inspector:
            answers = await inspector.ask(Inspector.queues, within=10)
            assert [queue.family for part in answers.told for queue in part] == [other]
            assert list(answers.away) == ["t"]
        gone.start()
        assert await waits.result(timeout=60) == 1
        assert supervisor.state == "running"


async def test_with_full_coverage_every_family_waits(tmp_path: Path, started: list[Any]) -> None:
    """Without a replica and with full coverage, the default: no family works until the node is back; none is lost."""
    servers = ClusterServers(tmp_path, timeout_ms=500, cluster_require_full_coverage="yes", **KEPT)
    started.append(servers)
    servers.start()
    runs: list[int] = []
    gone, other, families = _apart(servers, runs)
    living = next(node for node in servers.nodes if node is not gone)
    async with (
        Producer.connect(servers.url) as producer,
        Producer.connect(servers.url, timeout=1) as impatient,
        working(servers.url, *families) as supervisor,
    ):
        # They come due while the node is away.
        waiting = [await producer.enqueue("work", [n], family=name, delay=4) for n, name in enumerate(("t", other))]
        gone.kill()

        async def down() -> bool:
            return await asyncio.to_thread(_state, living) == "fail"

        await eventually(down)
        calls = [impatient.enqueue("work", [2], family=name) for name in ("t", other)]
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in refused] == [RedisUnavailable, RedisUnavailable]
        # By now they are due, and still nobody can have run them.
        assert runs == []
        gone.start()
        assert [await job.result(timeout=60) for job in waiting] == [0, 1]
        again = await producer.enqueue("work", [3], family=other)
        assert await again.result(timeout=60) == 3
        assert supervisor.state == "running"


def _state(node: RedisServer) -> str:
    with node.client(decode_responses=True) as client:
        return str(client.execute_command("CLUSTER INFO")["cluster_state"])


async def test_a_cluster_promotes_a_replica(tmp_path: Path, started: list[Any]) -> None:
    servers = ClusterServers(tmp_path, replicas=1, timeout_ms=2000)
    started.append(servers)
    servers.start()
    slot = key_slot(FamilyKeys.of("t").queue.encode())
    await _outlives(servers.url, lambda: servers.owner(slot))
