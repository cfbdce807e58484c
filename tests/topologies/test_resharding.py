"""A family's slot moves to another node while it works: every job runs, and none twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from redis.crc import key_slot

from daemon.keys import FamilyKeys
from daemon.producer import Producer
from tests.engine import make_family, until, working
from tests.servers import ClusterServers, RedisServer, wait_until

JOBS = 300
SLOT = key_slot(FamilyKeys.of("t").queue.encode())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    servers = ClusterServers(tmp_path_factory.mktemp("cluster")).start()
    yield servers
    servers.kill()


def key_by_key(cluster: ClusterServers, target: RedisServer) -> None:
    cluster.migrate(SLOT, target)


def at_once(cluster: ClusterServers, target: RedisServer) -> None:
    """Let the nodes move the slot themselves, as Valkey does since 9.0."""
    with target.client(decode_responses=True) as client:
        name = client.execute_command("CLUSTER MYID")
    with cluster.owner(SLOT).client() as client:
        client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", name)
    wait_until(lambda: cluster.owner(SLOT) is target, "the slot did not move")


@pytest.mark.parametrize("move", [key_by_key, at_once])
async def test_a_slot_moves_under_load(cluster: ClusterServers, move: Callable[..., None]) -> None:
    cluster.flush()
    runs: Counter[int] = Counter()

    async def work(ctx: object, n: int) -> int:
        runs[n] += 1
        await asyncio.sleep(0.002)
        return n

    source = cluster.owner(SLOT)
    target = next(node for node in cluster.nodes if node is not source)
    family = make_family("t", work, max_jobs=5, lease=5, keep_completed=None)
    async with Producer.connect(cluster.url) as producer, working(cluster.url, family) as supervisor:
        first = [await producer.enqueue("work", [n], family="t") for n in range(JOBS)]
        moving = asyncio.create_task(asyncio.to_thread(move, cluster, target))
        # They come while the slot moves, or wait until it has moved.
        later = [await producer.enqueue("work", [n], family="t") for n in range(JOBS, JOBS + 50)]
        await moving
        assert cluster.owner(SLOT) is target
        for n, job in enumerate([*first, *later]):
            assert job.created
            assert await job.result(timeout=30) == n
        assert runs == Counter(range(JOBS + 50)), "each once"
        await until(lambda: supervisor.redis_up)


async def test_no_script_runs_while_its_keys_are_in_two_places(cluster: ClusterServers) -> None:
    """With half of the keys moved, a call waits until all of them are there, and finds all jobs."""
    source = cluster.owner(SLOT)
    target = next(node for node in cluster.nodes if node is not source)
    async with Producer.connect(cluster.url, timeout=20) as producer:
        broker = producer.broker("t")
        await broker.drain(500)
        added = await producer.enqueue_many("work", [{"n": n} for n in range(50)], family="t")
        loop = asyncio.get_running_loop()
        counted: list[asyncio.Task[int]] = []

        def half_moved() -> None:
            async def ask() -> None:
                counted.append(asyncio.create_task(broker.drain(500)))
                await asyncio.sleep(0.3)
                assert not counted[0].done()

            asyncio.run_coroutine_threadsafe(ask(), loop).result(30)

        await asyncio.to_thread(cluster.migrate, SLOT, target, meanwhile=half_moved)
        assert await counted[0] == len(added) == 50
