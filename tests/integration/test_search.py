"""Search as people use it: lists with a text, and the index kept by whichever worker leads."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.connecting.connections import connect
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import ConfigurationError, InvalidJob, PermanentError
from daemon.family import Family
from daemon.inspector import Inspector
from daemon.pages import JobFilter
from daemon.producer import Producer
from daemon.search.indexer import Indexer, indexer_of
from tests.engine import eventually, make_family, run_burst, working
from tests.searching import caught_up, check_index, found_by


async def work(ctx: JobContext, text: str) -> None:
    if text.startswith("bad"):
        raise PermanentError(f"cannot do {text}")


async def other(ctx: JobContext, text: str) -> None:
    raise LookupError("mailbox full")


def family(mode: str = "payload", **values: Any) -> Family:
    return make_family("t", work, other, search=mode, max_tries=1, **values)


def inspector(producer: Producer) -> Inspector:
    return Inspector(producer.redis, ["t"])


async def index(producer: Producer) -> None:
    await Indexer(producer.redis).catch_up()


async def test_a_worker_keeps_the_index_within_a_second_or_so(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, family()):
        job = await producer.enqueue("work", "bad luck", family="t", tags=["vip"], job_id="order-17")
        with pytest.raises(Exception, match="cannot do"):
            await job.result(30)
        await eventually(lambda: caught_up(producer.redis, inspector(producer), "t"))
        assert await eventually(lambda: found_by(inspector(producer), "t", "LUCK order cannot vip")) == ["order-17"]
        await job.abort()
        await Control(producer.redis, ["t"]).remove(["t:order-17"])
        await eventually(lambda: caught_up(producer.redis, inspector(producer), "t"))
        assert await found_by(inspector(producer), "t", "luck") == []


async def test_a_text_together_with_the_other_filters(redis_url: str, producer: Producer) -> None:
    begun = datetime.now(UTC)
    for number in range(3):
        await producer.enqueue("work", f"bad {number} red", family="t", job_id=f"w{number}", tags=[f"tag-{number}"])
        await producer.enqueue("other", f"{number} red", family="t", job_id=f"o{number}")
    await producer.enqueue("work", "fine red", family="t", job_id="fine")
    await run_burst(redis_url, family())
    await index(producer)
    found = inspector(producer)
    assert sorted(await found_by(found, "t", "red")) == ["o0", "o1", "o2", "w0", "w1", "w2"]
    assert await found_by(found, "t", "red", "completed") == ["fine"]
    assert sorted(await found_by(found, "t", "red", function="other")) == ["o0", "o1", "o2"]
    assert await found_by(found, "t", "red", tag="tag-1") == ["w1"]
    assert sorted(await found_by(found, "t", "red", error="PermanentError")) == ["w0", "w1", "w2"]
    assert await found_by(found, "t", "red 2", error="LookupError") == ["o2"]
    assert len(await found_by(found, "t", "red", since=begun)) == 6
    assert await found_by(found, "t", "red", until=begun) == []
    assert await found_by(found, "t", "red", since=datetime.now(UTC) + timedelta(hours=1)) == []
    (last, *_) = await found.jobs("t", "failed", limit=1)
    assert (await found_by(found, "t", "red", since=last.finished_at))[0] == last.id.partition(":")[2]


async def test_waiting_jobs_are_found_by_when_they_were_enqueued(redis_url: str, producer: Producer) -> None:
    await run_burst(redis_url, family())
    await producer.enqueue_many("work", [["red"], ["blue"]], family="t")
    await index(producer)
    begun = datetime.now(UTC) + timedelta(hours=1)
    assert len(await found_by(inspector(producer), "t", "red", "waiting", until=begun)) == 1
    assert await found_by(inspector(producer), "t", "red", "waiting", since=begun) == []


async def test_without_payloads_only_the_rest_is_found(redis_url: str, producer: Producer) -> None:
    await producer.enqueue("other", "secret", family="t", job_id="one")
    await run_burst(redis_url, family("errors"))
    await index(producer)
    assert await found_by(inspector(producer), "t", "mailbox other one") == ["one"]
    assert await found_by(inspector(producer), "t", "secret") == []
    await check_index(producer.redis, inspector(producer), "t")


async def test_two_indexers_do_no_harm(redis_url: str, producer: Producer) -> None:
    await run_burst(redis_url, family())
    async with working(redis_url, family()):
        for number in range(20):
            await producer.enqueue_many("work", [[f"bad {number} {i}"] for i in range(20)], family="t")
            await asyncio.gather(*(indexer_of(producer.redis, "t").step() for _ in range(3)))
        queue = inspector(producer)

        async def quiet() -> bool:
            return (await queue.queue("t")).failed == 400 and await caught_up(producer.redis, queue, "t") is not None

        await eventually(quiet)
        assert await check_index(producer.redis, queue, "t") > 20


async def test_what_cannot_be_answered_is_told(redis_url: str, producer: Producer) -> None:
    found = inspector(producer)
    with pytest.raises(InvalidJob, match="search is off in family 't'"):
        await found.jobs("t", "failed", where=JobFilter(text="red"))
    await run_burst(redis_url, family())
    page = await found.jobs("t", "failed", where=JobFilter(text="red"))
    assert (list(page), page.partial) == ([], True)
    await index(producer)
    assert not (await found.jobs("t", "failed", where=JobFilter(text="red"))).partial
    for cursor in ("x", "", "c2VhcmNo", (await _cursor(producer))):
        with pytest.raises(InvalidJob, match="cursor"):
            await found.jobs("t", "completed", cursor=cursor, where=JobFilter(text="red"))
    with pytest.raises(InvalidJob, match="for lists of jobs"):
        await Control(producer.redis, ["t"]).retry_all("t", JobFilter(text="red"))


async def _cursor(producer: Producer) -> str:
    """A cursor of another state."""
    await producer.enqueue_many("work", [["red"]] * 3, family="t")
    await index(producer)
    page = await inspector(producer).jobs("t", "waiting", limit=1, where=JobFilter(text="red"))
    assert page.cursor
    return page.cursor


def test_search_needs_events() -> None:
    with pytest.raises(ConfigurationError, match=r"search: .*follows the events"):
        family(max_events=0)
    with pytest.raises(ConfigurationError, match="search: "):
        family("everything")


def test_the_commands(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)

    def arqd(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        return status, *capsys.readouterr()

    async def fill() -> None:
        async with Producer.connect(redis_url) as producer:
            await producer.enqueue_many("work", [["bad red"], ["bad blue"], ["good"]], family="t")
        await run_burst(redis_url, family())

    asyncio.run(fill())
    status, out, err = arqd("jobs", "t", "--state", "failed", "--text", "red")
    assert (status, "t:" in out, "being built" in err) == (0, False, True)
    status, out, err = arqd("search", "rebuild", "t")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()][1:3] == [["indexed", "payload"], ["jobs", "3"]]
    assert "cannot do bad red" in arqd("jobs", "t", "--state", "failed", "--text", "red")[1]
    assert "bad blue" in arqd("dead", "list", "t", "--text", "blue work")[1]
    assert '"building": false' in arqd("search", "status", "t", "--json")[1]
    assert arqd("search", "status", "email")[::2] == (
        1,
        "arqd: search is off in family 'email': set search to errors or payload in its settings and start a worker "
        "(docs/search.md)\n",
    )


async def test_a_client_that_lost_redis_is_no_reason_to_fail(redis_url: str) -> None:
    client = connect("redis://127.0.0.1:1/0", timeout=0.2)
    await Indexer(client).catch_up()
    await client.aclose()
