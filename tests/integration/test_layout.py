"""A queue of a release whose keys and records differ is left alone."""

from __future__ import annotations

import asyncio
import re

import pytest
from redis.asyncio import Redis

from daemon.cli.command import main
from daemon.errors import ConfigurationError
from daemon.family import load_family
from daemon.job import JobState
from daemon.layout import LAYOUT
from daemon.producer import Producer
from daemon.supervisor import Supervisor
from tests.conftest import RedisServerFactory
from tests.engine import in_state, make_family, until
from tests.integration.cli_family import WorkerSettings
from tests.marks import one_server
from tests.servers import looking_at

FAMILY = load_family(WorkerSettings)
SCHEMA = FAMILY.keys.key("schema")


async def burst(url: str) -> None:
    """Run what waits, and end."""
    await Supervisor([FAMILY], url, burst=True, handle_signals=False).run()


async def test_the_first_worker_writes_it_and_the_next_ones_read_it(redis_url: str) -> None:
    for _ in range(2):
        await burst(redis_url)
        with looking_at(redis_url) as redis:
            assert redis.get(SCHEMA) == b"%d" % LAYOUT


@pytest.mark.parametrize("theirs", [LAYOUT + 1, LAYOUT - 1, "what?"])
async def test_a_worker_of_another_layout_touches_nothing(redis_url: str, theirs: int | str) -> None:
    async with Producer.connect(redis_url) as producer:
        with looking_at(redis_url) as redis:
            redis.set(SCHEMA, theirs)
            job = await producer.enqueue("greet", {"name": "Ada"}, family=FAMILY.name)
            with pytest.raises(ConfigurationError, match=rf"layout {re.escape(str(theirs))}, this one has {LAYOUT}"):
                await burst(redis_url)
            assert await job.status() == "waiting"
            assert not redis.exists(FAMILY.keys.key("workers"))


async def test_a_worker_that_runs_notices_it_and_claims_nothing_more(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    held = asyncio.Event()

    async def hold(ctx: object) -> str:
        await held.wait()
        return "held"

    family = make_family("skewed", hold, lease=1.5)
    task = asyncio.create_task(Supervisor([family], redis_url, handle_signals=False).run())
    async with Producer.connect(redis_url) as producer:
        first = await producer.enqueue("hold", [], family="skewed")
        await in_state(first, JobState.ACTIVE)
        with looking_at(redis_url) as redis:
            redis.set(family.keys.key("schema"), LAYOUT + 1)
        await until(lambda: "nothing more is claimed" in caplog.text)
        late = await producer.enqueue("hold", [], family="skewed")
        held.set()
        with pytest.raises(ConfigurationError, match=rf"^skewed: .*layout {LAYOUT + 1}, this one has {LAYOUT}"):
            await asyncio.wait_for(task, 60)
        assert await first.result(timeout=60) == "held"
        assert await late.status() == "waiting"
        assert caplog.text.count("nothing more is claimed") == 1


@one_server
def test_check_tells_it_before(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_FAMILIES__GREETINGS", "tests.integration.cli_family:WorkerSettings")
    with looking_at(redis_url) as redis:
        redis.set(SCHEMA, LAYOUT + 1)
    assert main(["check"]) == 1
    told = f"FAIL  layout          {FAMILY.name}: the keys of this queue are of another release"
    assert told in capsys.readouterr().out


@one_server
async def test_a_full_server_keeps_no_worker_from_its_start(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with Producer.connect(server.url) as producer, Redis.from_url(server.url) as redis:
        job = await producer.enqueue("greet", {"name": "Ada"}, family=FAMILY.name)
        await redis.config_set("maxmemory", 1)
        await burst(server.url)
        assert await job.status() == "completed"
        assert await redis.get(SCHEMA) is None
