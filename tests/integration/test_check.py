"""``arqd check`` on real servers that are set up wrongly."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
import redis

from daemon.cli import check_server
from daemon.cli.command import main
from daemon.context import JobContext
from daemon.family import Family, SharedLimit
from daemon.inspector import Inspector
from daemon.producer import Producer
from tests.conftest import RedisServerFactory
from tests.engine import make_family, working
from tests.marks import one_server
from tests.servers import RedisServer

pytestmark = one_server

SECRET = "not-a-real-password"


async def greet(ctx: JobContext, name: str) -> str:
    return name


FAMILY = make_family("greetings", greet, shared_limits=(SharedLimit("maps", 1000),))


def found(url: str, family: Family = FAMILY) -> dict[str, tuple[str, str]]:
    """Give level and text of each finding by what it is about."""

    async def examine() -> list[check_server.Finding]:
        return [finding async for finding in check_server.server(url, [family])]

    findings = asyncio.run(examine())
    assert len({finding.what for finding in findings if finding.what != "rights"}) == len(
        [finding for finding in findings if finding.what != "rights"]
    )
    return {finding.what: (finding.level, finding.text) for finding in findings}


def admin(server: RedisServer) -> redis.Redis:
    return server.client(decode_responses=True)


def test_a_good_server(redis_server: RedisServerFactory) -> None:
    server = redis_server(appendonly="yes", maxmemory="100mb")
    assert {what: level for what, (level, _) in found(server.url).items()} == {
        "redis": "OK", "memory": "OK", "persistence": "OK", "rights": "OK", "clock": "OK",
    }  # fmt: skip
    with server.client() as client:
        assert client.keys("*") == []


@pytest.mark.parametrize(
    ("config", "what", "level", "said"),
    [
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, "memory", "FAIL", "throws away jobs; set it to no"),
        ({"maxmemory": "100mb", "maxmemory_policy": "volatile-ttl"}, "memory", "FAIL", "throws away what expires"),
        ({"maxmemory_policy": "volatile-lru"}, "memory", "WARN", "set it to noeviction before setting maxmemory"),
        ({}, "persistence", "WARN", "no append-only file"),
        ({"save": "3600 1"}, "persistence", "WARN", "every job since the last one; set appendonly yes"),
        ({"appendonly": "yes", "appendfsync": "no"}, "persistence", "WARN", "set appendfsync everysec"),
        ({"appendonly": "yes", "appendfsync": "always"}, "persistence", "OK", "append-only file, always"),
        ({"appendonly": "yes"}, "persistence", "OK", "loses up to two seconds"),
    ],
)  # fmt: skip
def test_a_setting(redis_server: RedisServerFactory, config: Any, what: str, level: str, said: str) -> None:
    told = found(redis_server(**config).url)[what]
    assert told[0] == level
    assert said in told[1]


def test_memory_near_its_limit(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory="20mb")
    assert "room" not in found(server.url)
    with server.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 0.9))
        level, text = found(server.url)["room"]
        assert (level, "will refuse new jobs" in text) == ("WARN", True)
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] / 1.2))
    level, text = found(server.url)["room"]
    assert (level, "it refuses new jobs" in text) == ("FAIL", True)


def test_a_replica(redis_server: RedisServerFactory) -> None:
    primary, replica = redis_server(), redis_server()
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
    level, text = found(replica.url)["role"]
    assert (level, "set ARQD_REDIS_URL to its primary" in text) == ("FAIL", True)


def user(server: RedisServer, *rules: str) -> str:
    """Make a user and give its URL."""
    with admin(server) as client:
        client.acl_setuser("worker", enabled=True, reset=True)
        client.execute_command("ACL", "SETUSER", "worker", f">{SECRET}", *rules)
    return server.url.replace("redis://", f"redis://worker:{SECRET}@")


def test_a_user_without_some_commands(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    url = user(server, "~*", "+@all", "-evalsha", "-zadd", "-client|unblock")
    level, text = found(url)["rights"]
    assert level == "FAIL"
    assert text == (
        "this user may not run EVALSHA, CLIENT UNBLOCK, ZADD: add +evalsha +client|unblock +zadd to its ACL"
    )
    url = user(server, "~*", "+@all", "-evalsha", "-zadd", "-client|unblock", *text.partition("add ")[2].split()[:3])
    assert found(url)["rights"][0] == "OK"


def test_a_user_without_some_keys(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    url = user(server, "~arq:*", "~arqd:*", "+@all")
    level, text = found(url)["rights"]
    assert level == "FAIL"
    assert text == (
        "this user may not use {greetings}:*, {limit:maps}:*: add ~{greetings}:* ~{limit:maps}:* to its ACL"
    )
    assert found(user(server, "~arq:*", "~{greetings}:*", "~{limit:maps}:*", "~arqd:*", "+@all"))["rights"][0] == "OK"


def test_a_user_who_may_only_read(redis_server: RedisServerFactory) -> None:
    level, text = found(user(redis_server(), "%R~*", "+@all"))["rights"]
    assert (level, "may not use" in text) == ("FAIL", True)


def test_a_user_with_no_rights_of_an_administrator(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    told = found(user(server, "~*", "+@all", "-@dangerous", "+client|unblock"))
    assert told["redis"][0] == "WARN"
    assert "may not run INFO" in told["redis"][1]
    assert told["rights"][0] == "OK"
    assert told["clock"][0] == "OK"
    assert "may not run MULTI" in found(user(server, "~*", "+@all", "-multi"))["rights"][1]


async def test_the_rights_it_asks_for_are_enough_and_none_is_missing(redis_server: RedisServerFactory) -> None:
    """A user with just these runs a worker, a producer and an inspector."""
    server = redis_server()
    named = {" ".join(call[:2]) if call[0] in ("CLIENT", "SCRIPT") else call[0] for call in check_server.commands()}
    with admin(server) as client:
        # Redis refuses rules about commands it does not have.
        known = client.command()
        named = {name for name in named if name.split()[0].lower() in known}
    rules = [f"+{name.lower().replace(' ', '|')}" for name in sorted(named)]
    patterns = [f"~{pattern}" for pattern in check_server.keys(FAMILY)]
    url = user(server, "+@connection", "+@transaction", "+info", *rules, *patterns)
    async with working(url, FAMILY), Producer.connect(url) as producer:
        job = await producer.enqueue("greet", ["Ada"], family="greetings")
        assert await job.result(30) == "Ada"
        delayed = await producer.enqueue("greet", ["Ada"], family="greetings", delay=60)
        assert await delayed.abort()
        await Inspector(producer.redis, ["greetings"]).queue("greetings")
    with admin(server) as client:
        assert client.acl_log() == []


def test_clocks_that_differ(redis_server: RedisServerFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time

    class Late:
        time = staticmethod(lambda: real() - 90)

    monkeypatch.setattr(check_server, "time", Late)
    level, text = found(redis_server().url)["clock"]
    assert level == "WARN"
    assert re.search(r"Redis's clock is \d\d\.\d s ahead of this machine's", text)


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7"])
def test_a_server_too_old(version: str) -> None:
    level, text = check_server._version("redis://h", {"redis_version": version})[::2]
    assert (level, f"Redis {version}: arqd needs 6.2" in text) == ("FAIL", True)


def test_writing_that_fails() -> None:
    broken = {"aof_enabled": 1, "aof_last_write_status": "err"}
    assert check_server._persistence(broken, {}).level == "FAIL"
    assert check_server._persistence({"rdb_last_bgsave_status": "err"}, {}).level == "FAIL"


def test_the_status_says_whether_jobs_are_lost(
    redis_server: RedisServerFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = redis_server()
    monkeypatch.setenv("ARQD_REDIS_URL", server.url)
    assert main(["check", "--json"]) == 0
    assert "WARN" in {finding["level"] for finding in json.loads(capsys.readouterr().out)}
    with server.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-random")
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("FAIL")] == [
        "FAIL  memory          maxmemory-policy is allkeys-random: a full Redis throws away jobs; set it to noeviction"
    ]
    assert SECRET not in out
