"""``arqd limits``: what it shows, what it changes, and that workers keep to it at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.errors import RetryAfter
from daemon.family import RateLimit, func
from daemon.keys import FamilyKeys
from daemon.limits.queue_limits import FamilyLimits, LimitInfo, read_limits
from daemon.producer import Producer
from tests.engine import eventually, make_family, until, working

Arqd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arqd(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["limits", *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


async def send(ctx: JobContext) -> None: ...


async def wait(ctx: JobContext) -> None:
    raise RetryAfter(3600, scope="group")


async def limits(redis_url: str) -> FamilyLimits:
    async with Producer.connect(redis_url) as producer:
        return await read_limits(producer.redis, FamilyKeys.of("t"))


async def test_settings_and_operators_limits_are_shown(redis_url: str, arqd: Arqd) -> None:
    slow = func(send, name="slow", global_limit=2, rate_limit=RateLimit(30, 60))
    family = make_family("t", slow, rate_limit=RateLimit(100), global_limit=8, group_limit=5)
    async with working(redis_url, family):
        pass
    for words in (("--rate", "50/s"), ("--global", "none"), ("--group", "acme", "--concurrency", "3", "--weight", "4")):
        status, _, err = await asyncio.to_thread(arqd, "t", *words)
        assert (status, err) == (0, "")
    status, out, _ = await asyncio.to_thread(arqd, "t")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["limit", "of", "at", "the", "same", "time", "starts", "set", "by", "running"],
        ["queue", "8", "100/1s", "settings", "0"],
        ["queue", "none", "50/1s", "operator", "0"],
        ["group", "acme", "3", "none", "operator", "0"],
        ["function", "slow", "2", "30/60s", "settings", "0"],
        ["group", "*", "5", "none", "settings", "-"],
        ["group", "acme", "has", "4", "turns", "where", "others", "have", "one"],
    ]  # fmt: skip
    _, out, _ = await asyncio.to_thread(arqd, "t", "--json")
    found = json.loads(out)
    assert found["limits"][2] == {
        "scope": "group", "name": "acme", "source": "operator", "concurrency": 3, "rate": "none",
    }  # fmt: skip
    assert (found["weights"], found["waits"]) == ({"acme": 4}, {})


async def test_a_part_of_a_limit_is_changed_and_the_rest_stays_as_it_was_in_force(redis_url: str, arqd: Arqd) -> None:
    async with working(redis_url, make_family("t", send, group_limit=5)):
        pass
    await asyncio.to_thread(arqd, "t", "--group", "acme", "--rate", "10/m")
    (acme,) = [limit for limit in (await limits(redis_url)).limits if limit.name == "acme"]
    assert acme == LimitInfo("group", "acme", "operator", 5, "10/60s")
    await asyncio.to_thread(arqd, "t", "--group", "acme", "--concurrency", "none")
    (acme,) = [limit for limit in (await limits(redis_url)).limits if limit.name == "acme"]
    assert (acme.concurrency, acme.rate) == ("none", "10/60s")


async def test_a_kind_of_groups_is_shown_and_changed(redis_url: str, arqd: Arqd) -> None:
    family = make_family("t", send, group_limit=5, group_rate=RateLimit(20), group_limits={"ordered:*": 1})
    async with working(redis_url, family):
        pass
    settings = ["group", "ordered:*", "1", "20/1s", "settings", "-"]
    _, out, _ = await asyncio.to_thread(arqd, "t")
    assert [line.split() for line in out.splitlines()[1:]] == [["group", "*", "5", "20/1s", "settings", "-"], settings]
    status, out, _ = await asyncio.to_thread(arqd, "t", "--group", "ordered:*", "--concurrency", "2")
    assert status == 0
    operators = ["group", "ordered:*", "2", "20/1s", "operator", "-"]
    assert operators in [line.split() for line in out.splitlines()]
    # What is left of a group's own limit is that of its kind.
    await asyncio.to_thread(arqd, "t", "--group", "ordered:a:b", "--rate", "none")
    found = (await limits(redis_url)).limits
    assert LimitInfo("group", "ordered:a:b", "operator", 2, "none") in found
    for group in ("ordered:*", "ordered:a:b"):
        _, out, _ = await asyncio.to_thread(arqd, "t", "--group", group, "--reset")
    assert [line.split()[4] for line in out.splitlines()[1:]] == ["settings", "settings"]
    status, out, err = await asyncio.to_thread(arqd, "t", "--group", "ordered:*", "--weight", "2")
    assert (status, out, err) == (1, "", "arqd: weight is that of a group: name it\n")


async def test_reset_takes_back_what_was_set(redis_url: str, arqd: Arqd) -> None:
    async with working(redis_url, make_family("t", send, group_limit=5)):
        pass
    before = await limits(redis_url)
    for words in (("--rate", "1/s", "--global", "1"), ("--group", "a", "--weight", "9", "--rate", "1/s"),
                  ("--group", "*", "--concurrency", "1"), ("--function", "send", "--concurrency", "1")):  # fmt: skip
        await asyncio.to_thread(arqd, "t", *words)
    assert len((await limits(redis_url)).limits) == 5
    for words in ((), ("--group", "a"), ("--group", "*"), ("--function", "send")):
        await asyncio.to_thread(arqd, "t", *words, "--reset")
    assert await limits(redis_url) == before


async def test_a_limit_counts_at_once_and_a_wider_one_wakes_workers(redis_url: str, arqd: Arqd) -> None:
    running: set[str] = set()
    release = asyncio.Event()

    async def stay(ctx: JobContext) -> None:
        running.add(ctx.job_id)
        await release.wait()

    async with working(redis_url, make_family("t", stay, max_jobs=10)), Producer.connect(redis_url) as producer:
        await asyncio.to_thread(arqd, "t", "--global", "2")
        for _ in range(6):
            await producer.enqueue("stay", family="t")
        await until(lambda: len(running) == 2)
        await asyncio.to_thread(arqd, "t", "--global", "4")
        await until(lambda: len(running) == 4)
        await asyncio.to_thread(arqd, "t", "--reset")
        await until(lambda: len(running) == 6)
        release.set()


async def test_a_wait_is_shown_and_ended(redis_url: str, arqd: Arqd) -> None:
    async with working(redis_url, make_family("t", wait)), Producer.connect(redis_url) as producer:
        job = await producer.enqueue("wait", family="t", group="acme")

        async def told() -> Any:
            return (await limits(redis_url)).waits

        assert list(await eventually(told)) == ["g:acme"]
        _, out, _ = await asyncio.to_thread(arqd, "t")
        assert "group acme was told to wait until 20" in out
        await asyncio.to_thread(arqd, "t", "--group", "acme", "--reset")
        assert (await limits(redis_url)).waits == {}
        await job.abort()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--rate", "often"], 1, "write starts per period, e.g. 50/s"),
        (["--rate", "0/s"], 1, "write starts per period, e.g. 50/s"),
        (["--global", "-1"], 1, "at the same time"),
        (["--group", "a", "--concurrency", "few"], 1, "at the same time"),
        (["--group", "a", "--function", "b"], 2, "not both"),
        (["--concurrency", "3"], 2, "--global is for the queue"),
        (["--group", "a", "--global", "3"], 2, "--concurrency is for a group"),
        (["--weight", "2"], 2, "give the --group"),
        (["--group", "*", "--weight", "2"], 2, "give the --group"),
        (["--group", "a", "--weight", "65"], 2, "64"),
        (["--group", ""], 2, "plain text"),
        (["--group", "a\nb", "--concurrency", "1"], 2, "plain text"),
        (["--reset", "--rate", "1/s"], 2, "give it alone"),
    ],
)
def test_what_is_no_limit_is_refused(arqd: Arqd, words: list[str], status: int, told: str) -> None:
    found, out, err = arqd("email", *words)
    assert (found, out) == (status, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_an_unknown_family_is_refused(arqd: Arqd) -> None:
    status, _, err = arqd("emial", "--rate", "1/s")
    assert status == 1
    assert "there is no family 'emial'" in err


def test_a_limit_of_a_function_that_nobody_has_is_told_as_such(arqd: Arqd) -> None:
    for words in (("--function", "send_email"), ("--function", "*"), ()):
        status, _, err = arqd("email", *words, "--rate", "1/s")
        assert (status, err) == (0, "")
    for options in (("--rate", "1/s"), ("--rate", "2/s", "--json")):
        status, out, err = arqd("email", "--function", "send_emial", *options)
        assert (status, "send_emial" in out) == (0, True)
        assert err == (
            "arqd: email has no function 'send_emial': its limit counts once a worker has one "
            "(known are send_bulk_email, send_email)\n"
        )
    # Nobody is there who could tell which functions there are.
    status, _, err = arqd("email")
    assert (status, err) == (0, "")
