"""``arqd schedule``, in this process, on a real Valkey; ``arqd scheduler`` as a process of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.family import crontab, load_family
from daemon.producer import SyncProducer
from daemon.schedules import Schedules
from daemon.scheduling.publish import publish
from tests.integration.cli_family import WorkerSettings
from tests.integration.test_cli_control import Arqd, arqd
from tests.integration.test_cli_daemons import Start, start, until
from tests.servers import looking_at

__all__ = ["arqd", "start"]

DAILY = ("--json", '{"name": "Ada"}', "--cron", "0 8 * * *")


@pytest.fixture
def producer(redis_url: str) -> Iterator[SyncProducer]:
    with SyncProducer.connect(redis_url) as producer:
        yield producer


def listed(arqd: Arqd) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = arqd("schedule", "list", "--json").json()
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "s"], "Missing argument 'function'"),
        (["add", "s", "greet", "--json", "text"], "this is not JSON"),
        (["add", "s", "greet", *DAILY, "--start", "2030-01-01T00:00:00"], "--start: say the time zone too"),
        (["add", "s", "greet", "--cron", "@daily", "--missed", "sometimes"], "'sometimes' is not one of 'run_once'"),
        (["add", "s", "greet", "--cron", "@daily", "--count", "0"], "--count"),
        (["pause"], "Missing argument 'SCHEDULE'"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arqd: Arqd, arguments: list[str], said: str) -> None:
    ended = arqd("schedule", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "s", "greet", *DAILY[:2]], "schedule 's': give cron or every"),
        (["add", "s", "greet", *DAILY, "--every", "3s"], "schedule 's': give cron or every"),
        (
            ["add", "s", "greet", *DAILY[:2], "--cron", "0 8 * *"],
            "cron '0 8 * *': wrong number of fields: write minute",
        ),
        (["add", "s", "greet", *DAILY, "--timezone", "Berlin"], "there is no time zone 'Berlin'"),
        (["add", "s", "greet", "--json", "{}", "--cron", "@daily"], "payload of greet: name: Field required"),
        (["add", "s", "great", *DAILY], "no function 'great' here"),
        (["add", "s", "greet", *DAILY, "--priority", "soon"], "priority 'soon' is not a level"),
        (["add", "s", "greet", *DAILY, "--end", "2020-01-01T00:00:00Z"], "its end has passed"),
        (["pause", "greetings:none"], "there is no schedule greetings:none: arqd schedule list shows those there are"),
        (["resume", "greetings:none"], "there is no schedule greetings:none"),
        (["run", "greetings:none"], "there is no schedule greetings:none"),
        (["remove", "greetings:none"], "there is no schedule greetings:none"),
        (["remove", "none"], "schedule 'none': write it as family:name"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(
    arqd: Arqd, producer: SyncProducer, arguments: list[str], said: str
) -> None:
    ended = arqd("schedule", *arguments)
    assert (ended.status, ended.out) == (1, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert listed(arqd) == []


def test_one_is_added_with_everything(arqd: Arqd) -> None:
    options = ["--priority", "low", "--max-tries", "2", "--timeout", "30s", "--expires", "1h", "--group", "acme"]
    bounds = ["--start", "2040-01-01T00:00:00Z", "--end", "2040-02-01T00:00:00+01:00", "--count", "5"]
    more = ["--timezone", "Europe/Berlin", "--missed", "skip", "--tag", "a", "--tag", "b", "--dedup-key", "one"]
    ended = arqd("schedule", "add", "s", "greet", *DAILY, *options, *bounds, *more)
    assert (ended.status, ended.out) == (0, "greetings:s\n")
    (found,) = listed(arqd)
    assert found["next_runs"] == [f"2040-01-0{day}T07:00:00Z" for day in (1, 2, 3)]
    assert {name: found[name] for name in ("function", "payload", "cron", "timezone", "missed", "count", "end")} == {
        "function": "greet",
        "payload": {"name": "Ada", "loudness": 1},
        "cron": "0 8 * * *",
        "timezone": "Europe/Berlin",
        "missed": "skip",
        "count": 5,
        "end": "2040-01-31T23:00:00Z",
    }
    assert found["options"] == {
        "priority": "low",
        "max_tries": 2,
        "timeout": 30,
        "expires": 3600,
        "group": "acme",
        "tags": ["a", "b"],
        "dedup_key": "one",
    }


def test_one_of_a_function_that_is_elsewhere(arqd: Arqd) -> None:
    ended = arqd("schedule", "add", "s", "resize", "--family", "studio", "--json", "[1, 2]", "--every", "15m")
    assert (ended.status, ended.out) == (0, "studio:s\n")
    (found,) = listed(arqd)
    assert (found["cron"], found["payload"]) == ("@every 900s", [1, 2])


def test_its_life(arqd: Arqd, producer: SyncProducer) -> None:
    assert arqd("schedule", "add", "greetings:s", "greet", *DAILY).out == "greetings:s\n", "or by what it is called"
    assert arqd("schedule", "add", "s", "greet", *DAILY).err == (
        "arqd: there is a schedule greetings:s already: change or remove it\n"
    )
    said = [arqd("schedule", word, "greetings:s").out for word in ("pause", "pause")]
    assert said == ["greetings:s paused\n", "greetings:s was paused already\n"]
    table = arqd("schedule", "list").out.splitlines()
    assert table[0].split() == ["schedule", "function", "when", "zone", "state", "next", "last", "runs", "source"]
    assert table[1].split() == [
        "greetings:s",
        "greet",
        "0",
        "8",
        "*",
        "*",
        "*",
        "UTC",
        "paused",
        "-",
        "-",
        "0",
        "runtime",
    ]
    said = [arqd("schedule", word, "greetings:s").out for word in ("resume", "resume")]
    assert said == ["greetings:s resumed\n", "greetings:s was not paused\n"]
    job = arqd("schedule", "run", "greetings:s").out.strip()
    assert producer.job(job).info().tags == ["schedule:s"]
    assert arqd("jobs", "greetings", "--tag", "schedule:s", "--json").json()["jobs"][0]["id"] == job
    assert arqd("schedule", "remove", "greetings:s").out == "greetings:s removed\n"
    assert listed(arqd) == []


def test_one_of_the_settings(arqd: Arqd, redis_url: str) -> None:
    settings = type("Settings", (WorkerSettings,), {"cron_jobs": [crontab("@daily", "process_id")]})

    async def known() -> None:
        async with Schedules.connect(redis_url) as found:
            from daemon.broker import Broker

            family = load_family(settings)
            await publish(Broker(found.redis, family.keys), family.schedules)

    asyncio.run(known())
    (found,) = listed(arqd)
    assert (found["name"], found["source"]) == ("greetings:process_id", "settings")
    assert arqd("schedule", "list", "other", "--json").json() == []


def test_the_scheduler_alone(start: Start, redis_url: str, producer: SyncProducer) -> None:
    first = start("scheduler")
    first.said("scheduler: this process leads")
    added = start("schedule", "add", "s", "work", "--family", "t", "--every", "1s")
    assert added.ended() == 0
    until(lambda: producer.health() and waiting(redis_url) >= 2, "ticks")
    second = start("scheduler")
    until(lambda: second.process.poll() is None and (first.ended(signal.SIGTERM) == 0), "it ends")
    second.said("scheduler: this process leads")
    assert second.ended(signal.SIGINT) == 0
    assert "Traceback" not in first.text + second.text


def waiting(redis_url: str) -> int:
    with looking_at(redis_url) as client:
        return int(client.zcard("arq:{t}"))
