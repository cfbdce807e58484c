"""Job templates: named presets of options, in code and from settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.errors import ConfigurationError, InvalidJob
from daemon.payload import Payload
from daemon.producer import Producer, SyncProducer
from daemon.retry import Exponential, Fixed
from daemon.settings import load_settings
from tests.engine import make_family, working


class Report(Payload, family="t", function="report", priority="high"):
    month: str = "2030-01"


class Nightly(Payload, family="t", function="nightly"):
    pass


async def report(ctx: JobContext, job: Report) -> str:
    return job.month


async def nightly(ctx: JobContext, job: Nightly) -> str:
    handle = await ctx.producer.enqueue(Report(), template="slow")
    return handle.id


async def test_a_template_stands_for_its_options_and_those_beside_it_win(producer: Producer) -> None:
    options = producer.template("slow", priority="low", max_tries=2, tags=["reports"])
    assert options == producer.template("slow") == {"priority": "low", "max_tries": 2, "tags": ["reports"]}
    plain = await (await producer.enqueue(Report(), template="slow")).info()
    assert (plain.priority, plain.max_tries, plain.tags) == (7, 2, ["reports"])
    own = await (await producer.enqueue(Report(), template="slow", priority=9, tags=[])).info()
    assert (own.priority, own.max_tries, own.tags) == (9, 2, [])


async def test_none_takes_an_option_of_a_template_back(producer: Producer) -> None:
    producer.template("later", delay="1h")
    options: Any = {"delay": None}
    job = await producer.enqueue(Report(), template="later", **options)
    assert await job.status() == "waiting"


async def test_many_jobs_with_a_template(producer: Producer) -> None:
    producer.template("slow", priority="low")
    many = await producer.enqueue_many([Report(), Report()], template="slow")
    each = await producer.enqueue_each([(("report", {}), {"template": "slow", "job_id": "mine"})], family="t")
    assert [(await job.info()).priority for job in [*many, *each]] == [7, 7, 7]


async def test_a_template_with_a_dedup_key(producer: Producer) -> None:
    producer.template("one", dedup_mode="debounce", delay=60)
    producer.template("only", dedup_key="the one")
    first = await producer.enqueue(Report(), template="one", dedup_key="x")
    assert (await producer.enqueue(Report(), template="one", dedup_key="x")).id == first.id
    assert (await producer.enqueue(Report(), template="only")).created
    assert not (await producer.enqueue(Report(), template="only")).created


def test_the_synchronous_producer_has_templates_too(redis_url: str) -> None:
    with SyncProducer.connect(redis_url, templates={"slow": {"priority": "low"}}) as producer:
        assert producer.template("fast", priority=1) == {"priority": 1}
        assert producer.enqueue(Report(), template="slow").info().priority == 7


def test_what_is_given_back_is_a_copy() -> None:
    producer = Producer(None)
    producer.template("slow", priority=7)["priority"] = 1
    assert producer.template("slow") == {"priority": 7}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prio": 1}, r"template 'x': unknown options \['prio'\]; known are priority, delay, .*dedup_mode$"),
        ({"job_id": "one"}, "unknown options"),
        ({"template": "other"}, "unknown options"),
        ({"priority": "soon"}, "template 'x': priority 'soon'"),
        ({"max_tries": 0}, "max_tries"),
        ({"dedup_mode": "keep"}, "drop, replace, debounce"),
    ],
)
def test_a_wrong_template_is_refused_at_once(options: Any, told: str) -> None:
    producer = Producer(None)
    with pytest.raises(InvalidJob, match=told):
        producer.template("x", **options)
    with pytest.raises(InvalidJob, match=told):
        Producer(None, templates={"x": options})
    with pytest.raises(ConfigurationError, match="ARQD_TEMPLATES: template 'x'"):
        load_settings({"ARQD_TEMPLATES": json.dumps({"x": options})})


async def test_an_unknown_template_is_refused_with_those_that_are_known(producer: Producer) -> None:
    with pytest.raises(InvalidJob, match=r"no template 'slow'; known are none"):
        producer.template("slow")
    producer.template("b", priority=1)
    producer.template("a", priority=1)
    with pytest.raises(InvalidJob, match=r"no template 'slow'; known are a, b"):
        await producer.enqueue(Report(), template="slow")
    assert await producer.redis.dbsize() == 0


# ---------------------------------------------------------------- settings


def test_templates_from_settings_may_write_a_backoff_as_text() -> None:
    written = {
        "slow": {"priority": "low", "timeout": "10m", "backoff": "exponential 3s max 1m"},
        "fixed": {"backoff": "fixed 5s"},
    }
    found = load_settings({"ARQD_TEMPLATES": json.dumps(written)}).templates
    assert found["slow"] == {"priority": "low", "timeout": "10m", "backoff": Exponential(3, 60)}
    assert found["fixed"] == {"backoff": Fixed(5)}
    one = load_settings({"ARQD_TEMPLATES__SLOW": '{"priority": "low"}'})
    assert one.templates == {"slow": {"priority": "low"}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"slow": {"backoff": "often"}}', "template 'slow': backoff: .*write 'exponential"),
        ('{"slow": 3}', "ARQD_TEMPLATES"),
        ("slow", "ARQD_TEMPLATES"),
    ],
)
def test_wrong_templates_in_settings_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load_settings({"ARQD_TEMPLATES": text})


async def test_handlers_enqueue_with_the_templates_of_their_daemon(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue(Nightly())
    templates = {"slow": {"priority": "low", "delay": "1h"}}
    async with working(redis_url, make_family("t", report, nightly), templates=templates):
        made = producer.job(await job.result(30))
    assert (await made.info()).priority == 7


def test_the_command_takes_a_template_and_a_dedup_key(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_TEMPLATES", '{"slow": {"priority": "low", "delay": "1h"}}')
    line = ["enqueue", "report", "--family", "t", "--template", "slow", "--dedup-key", "k", "--group", "acme"]
    assert main([*line, "--dedup-mode", "debounce", "--dedup-window", "10m"]) == 0
    first = capsys.readouterr().out
    assert main([*line, "--dedup-mode", "replace", "--json", '{"month": "2030-02"}']) == 0
    repeat = capsys.readouterr()
    assert repeat.out == first
    assert "it has the new payload now" in repeat.err
    assert main(line) == 0
    assert "nothing was enqueued" in capsys.readouterr().err
    with SyncProducer.connect(redis_url) as sync:
        info = sync.job(first.strip()).info()
    assert (info.priority, info.state, info.payload) == (7, "delayed", {"month": "2030-02"})
    assert main([*line[:4], "--template", "fast"]) == 1
    assert "no template 'fast'; known are slow" in capsys.readouterr().err
