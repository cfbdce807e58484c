"""Producers and connections: refused, not there, full, lost; and the producer for code without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import signal
import threading
import time
from typing import Any

import pytest
import redis

from daemon.errors import (
    ArqdError,
    InvalidJob,
    JobFailed,
    RedisFull,
    RedisRefused,
    RedisUnavailable,
)
from daemon.job import JobState
from daemon.producer import JobHandle, Producer, SyncProducer
from tests.asking import FUNCTIONS, NOW, Answer, Ask, Plain, producing
from tests.conftest import RedisServerFactory
from tests.engine import eventually, make_family, run_burst, until, working
from tests.marks import one_server
from tests.servers import free_port


async def registered(producer: Producer, job: JobHandle) -> None:
    async def known() -> bool:
        return bool(await producer.redis.hexists("{t}:waiters", job.job_id))

    await eventually(known)


# ---------------------------------------------------------------- connections


@one_server
async def test_a_wrong_password_is_told_without_the_password(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    for url in (f"redis://:wr0ng-secret@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
        async with producing(url) as producer:
            calls_ = (
                producer.enqueue(Plain()),
                producer.enqueue_many([Plain()]),
                producer.job("t:x").result(30),
                producer.job("t:x").status(),
                producer.job("t:x").abort(),
                producer.health(),
            )
            for call in calls_:
                with pytest.raises(RedisRefused, match="check the user name, the password") as caught:
                    await call
                assert "wr0ng-secret" not in str(caught.value)
    with server.client() as client:
        assert client.dbsize() == 0


@one_server
async def test_a_password_given_as_an_option_serves_results_too(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    async with producing(f"redis://127.0.0.1:{server.port}", password="right") as producer:
        job = await producer.enqueue(Plain(n=3))
        result = asyncio.create_task(job.result(30))
        await registered(producer, job)

        def blocked() -> bool:
            with server.client() as client:
                return any(c["cmd"] == "blpop" for c in client.client_list())

        await until(blocked)
        await run_burst(server.url, make_family("t", *FUNCTIONS))
        assert await result == 3


async def test_no_server_is_told_with_what_to_check() -> None:
    url = f"redis://:s3cret@127.0.0.1:{free_port()}"
    async with producing(url) as producer:
        for call in (producer.enqueue(Plain()), producer.job("t:x").result(1), producer.job("t:x").abort()):
            with pytest.raises(RedisUnavailable, match=r"cannot be reached .*check ARQD_REDIS_URL") as caught:
                await call
            assert "s3cret" not in str(caught.value)
        assert await producer.health() is False


@one_server
async def test_a_full_server_writes_nothing(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory_policy="noeviction")
    async with producing(server.url) as producer:
        assert await producer.health() is True
        kept = await producer.enqueue(Plain(n=1))
        with server.client() as client:
            client.config_set("maxmemory", "1")
            before = client.dbsize()
            for call in (producer.enqueue(Plain()), producer.enqueue_many([Plain()] * 2000)):
                with pytest.raises(RedisFull, match="nothing was written; free memory"):
                    await call
            assert client.dbsize() == before
            client.config_set("maxmemory", "0")
        assert await kept.status() is JobState.WAITING
        assert (await producer.enqueue(Plain())).created


async def test_a_lost_reply_does_not_enqueue_twice(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        # From now on the server knows the script, so that the first call is the one that counts.
        await producer.enqueue(Plain())
        # In a cluster single calls have no connection of their own.
        place, name = (producer.channel, "call") if producer.channel else (producer.redis, "execute_command")
        original = getattr(place, name)
        lost = False

        async def loses_one_reply(*args: Any, **options: Any) -> Any:
            nonlocal lost
            reply = await original(*args, **options)
            if not lost and args[0] in ("EVAL", "EVALSHA"):
                lost = True
                raise redis.ConnectionError("reply lost")
            return reply

        setattr(place, name, loses_one_reply)
        job = await producer.enqueue(Plain(), job_id="one")
        assert lost
        assert job.created
        assert await producer.redis.zcard("arq:{t}") == 2
        assert not (await producer.enqueue(Plain(n=2), job_id="one")).created


# ---------------------------------------------------------------- without an event loop


def test_the_synchronous_producer_has_the_same_methods() -> None:
    def public(cls: type) -> set[str]:
        skipped = {"broker", "abort"}
        return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"} - skipped

    assert public(Producer) == public(SyncProducer)


@pytest.fixture
def worker_thread(redis_url: str) -> Any:
    """Run a worker in a thread of its own, as a service without an event loop sees it."""
    stop: list[Any] = []
    ready = threading.Event()

    async def run() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with working(redis_url, make_family("t", *FUNCTIONS)):
            stop.append(lambda: loop.call_soon_threadsafe(done.set))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(60)
    yield redis_url
    stop[0]()
    thread.join()


def test_the_synchronous_producer_serves_several_threads(worker_thread: str) -> None:
    with SyncProducer.connect(worker_thread) as producer:
        assert producer.health() is True

        def use(n: int) -> list[int]:
            jobs = [producer.enqueue(Plain(n=n)), *producer.enqueue_many([Plain(n=n)] * 3)]
            return [job.result(30) for job in jobs]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert list(pool.map(use, range(8))) == [[n] * 4 for n in range(8)]


def test_the_synchronous_handle(worker_thread: str) -> None:
    with SyncProducer(worker_thread) as producer:
        job = producer.enqueue(Ask(question="why"), job_id="one")
        assert (job.id, job.family, job.created) == ("t:one", "t", True)
        assert job.result(30) == Answer(text="WHY", at=NOW)
        assert (job.status(), job.progress(), job.info().function) == (JobState.COMPLETED, 100, "ask")
        assert producer.job("t:one").status() is JobState.COMPLETED
        delayed = producer.enqueue("plain", {"n": 1}, family="t", delay=60)
        assert delayed.abort() is True
        with pytest.raises(concurrent.futures.CancelledError):
            delayed.result(30)
        failing = producer.enqueue(Ask(question="", fail="no"), max_tries=1)
        with pytest.raises(JobFailed, match="ValueError: no"):
            failing.result(30)
        with pytest.raises(InvalidJob):
            producer.enqueue(Plain(), priority="soon")
    producer.close()


def test_a_synchronous_producer_that_is_closed_or_forked_says_so(redis_url: str) -> None:
    """Its thread is not in a child of a fork, where every call would wait for ever."""
    with SyncProducer.connect(redis_url) as producer:
        job = producer.job("t:one")
        child = os.fork()
        if not child:
            try:
                producer.health()
            except ArqdError as error:
                os._exit(7 if "after a fork" in str(error) else 8)
            os._exit(9)
        ended, deadline = 0, time.monotonic() + 60
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert (ended, os.waitstatus_to_exitcode(status)) == (child, 7)
        assert producer.health()
    for call in (producer.health, job.status, lambda: next(producer.events("t"))):
        with pytest.raises(ArqdError, match="is closed"):
            call()


async def test_the_synchronous_producer_works_beside_a_running_loop(redis_url: str) -> None:
    def use() -> str:
        with SyncProducer(redis_url) as producer:
            return producer.enqueue(Plain()).id

    assert (await asyncio.to_thread(use)).startswith("t:")
