"""What ``arqd check`` asks a Redis server: its version, role, memory, persistence, this user's rights, its clock."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import NoPermissionError, ResponseError

from daemon.cli import check_topology
from daemon.cli.finding import Finding as Finding
from daemon.connecting.channel import Channel
from daemon.connecting.cluster import Cluster
from daemon.connecting.connections import connect, safe_url, translated
from daemon.errors import ArqdError
from daemon.keys import ABORT, IN_PROGRESS, JOB, RESULT, RETRY, LimitKeys
from daemon.layout import other_layout
from daemon.lua import SCRIPTS
from daemon.scheduling.scheduler import LEASE
from daemon.servers import RedisUrl, url_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from daemon.family import Family

OLDEST = (6, 2)
TIMEOUT = 5.0
#: Share of its limit at which memory is nearly full, and clock difference that is told, seconds.
NEARLY_FULL, SKEW = 0.8, 1.0

#: What arqd sends itself, beside what its scripts call; keys stand where ``KEY`` does.
KEY = "\0key"
SENT = (
    ("EVALSHA", "0" * 40, "1", KEY),
    ("EVAL", "return 1", "1", KEY),
    ("SCRIPT", "LOAD", "return 1"),
    ("BZPOPMIN", KEY, "1"),
    ("BLPOP", KEY, "1"),
    ("GETEX", KEY),
    ("CLIENT", "ID"),
    ("CLIENT", "UNBLOCK", "0"),
    ("XREAD", "STREAMS", KEY, "$"),
    *((name, KEY) for name in ("GETRANGE", "SADD", "SMEMBERS", "XREVRANGE", "ZMSCORE", "ZRANK")),
)


async def server(url: RedisUrl, families: Iterable[Family]) -> AsyncIterator[Finding]:
    """Examine a server, or all there are; nothing in them is changed."""
    every = list(families)
    urls = [url] if isinstance(url, str) else list(url.by_url())
    for each in urls:
        here = [family for family in every if url_of(url, family.keys.queue) == each]
        needed = {pattern: key for family in every for pattern, key in keys(family).items() if url_of(url, key) == each}
        try:
            client = connect(each, timeout=TIMEOUT)
            try:
                with translated():
                    async for finding in _server(client, each, here, needed):
                        yield finding if len(urls) == 1 else _at(safe_url(each), finding)
            finally:
                await client.aclose()
        except ArqdError as error:
            yield Finding("FAIL", "redis", f"{safe_url(each)}: {error}")


async def _server(
    client: Any, url: str, families: Sequence[Family], needed: Mapping[str, str]
) -> AsyncIterator[Finding]:
    """Examine one server, or those that stand for one."""
    if isinstance(client, Cluster):
        async for finding in check_topology.cluster(client, families):
            yield finding
        nodes = await client.primaries()
        own = {pattern: key for pattern, key in needed.items() if pattern != ABORT}
        for (host, port), node in nodes.items():
            try:
                with translated():
                    async for finding in _examine(node, f"{host}:{port}", own, clustered=True):
                        yield _at(f"{host}:{port}", finding)
            except ArqdError as error:
                yield Finding("FAIL", "redis", f"{host}:{port}: {error}")
        async for finding in _layouts(client, families):
            yield finding
        return
    if isinstance(client.connection_pool, SentinelConnectionPool):
        async for finding in check_topology.sentinels(client):
            yield finding
    async for finding in _examine(client, safe_url(url), needed):
        yield finding
    async for finding in _layouts(client, families):
        yield finding


async def _layouts(client: Any, families: Sequence[Family]) -> AsyncIterator[Finding]:
    for family in families:
        # What a user lacks is told with its rights.
        with suppress(NoPermissionError):
            if told := await other_layout(client, family.keys):
                yield Finding("FAIL", "layout", told)


def _at(where: str, finding: Finding) -> Finding:
    return finding if where in finding.text else finding._replace(text=f"{where}: {finding.text}")


async def _examine(
    client: Redis, name: str, needed: Mapping[str, str], *, clustered: bool = False
) -> AsyncIterator[Finding]:
    await client.ping()
    try:
        info = await client.info()
    except NoPermissionError:
        yield Finding("WARN", "redis", f"{name}: this user may not run INFO: version, memory, persistence not checked")
    else:
        yield _version(name, info)
        if (role := _role(info)) is not None:
            yield role
        if info.get("cluster_enabled") and not clustered:
            text = "this is a node of a Redis Cluster, which has a part of the keys: use redis+cluster:// in its URL"
            yield Finding("FAIL", "cluster", text)
        config = await _config(client)
        yield _eviction(info)
        if (full := _room(info)) is not None:
            yield full
        yield _persistence(info, config)
    for finding in await _rights(client, needed):
        yield finding
    yield await _clock(client)


async def _config(client: Redis) -> dict[str, str]:
    """Read settings; empty where this user may not (a managed server)."""
    found: dict[str, str] = {}
    for name in ("appendfsync", "save"):
        try:
            found |= await client.config_get(name)
        except ResponseError:
            return {}
    return found


def _version(url: str, info: dict[str, Any]) -> Finding:
    version = str(info.get("redis_version", "0"))
    served_by = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        return Finding("FAIL", "redis", f"{url} is {served_by}: arqd needs 6.2 or later, or Valkey")
    return Finding("OK", "redis", f"{url}, {served_by}")


def _role(info: dict[str, Any]) -> Finding | None:
    if info.get("role") == "slave":
        text = "this is a replica, which takes no jobs: set ARQD_REDIS_URL to its primary, or use redis+sentinel://"
        return Finding("FAIL", "role", text)
    return None


def _eviction(info: dict[str, Any]) -> Finding:
    policy, limit = info.get("maxmemory_policy", "unknown"), info.get("maxmemory", 0)
    if policy == "noeviction":
        return Finding("OK", "memory", "noeviction" + (f", limit {limit} bytes" if limit else ", no limit"))
    if limit:
        what = "what expires: results, and jobs of stock arq producers" if policy.startswith("volatile") else "jobs"
        text = f"maxmemory-policy is {policy}: a full Redis throws away {what}; set it to noeviction"
        return Finding("FAIL", "memory", text)
    return Finding("WARN", "memory", f"maxmemory-policy is {policy}: set it to noeviction before setting maxmemory")


def _room(info: dict[str, Any]) -> Finding | None:
    limit, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    if not limit or used < NEARLY_FULL * limit:
        return None
    what = "it refuses new jobs" if used >= limit else "it will refuse new jobs when it is full"
    text = f"{used / limit:.0%} of maxmemory is used: {what}; raise maxmemory, or keep less (keep_result, arqd clean)"
    return Finding("FAIL" if used >= limit else "WARN", "room", text)


def _persistence(info: dict[str, Any], config: dict[str, str]) -> Finding:
    if info.get("aof_enabled"):
        if "err" in (info.get("aof_last_write_status"), info.get("aof_last_bgrewrite_status")):
            return Finding("FAIL", "persistence", "append-only file, but writing fails: look at its disk and its log")
        fsync = config.get("appendfsync")
        if fsync == "no":
            text = "appendfsync is no: a crash of the machine loses what the system has not written, often 30 s of jobs"
            return Finding("WARN", "persistence", f"{text}; set appendfsync everysec")
        loses = {"everysec": ", everysec: a crash of the machine loses up to two seconds", "always": ", always"}
        return Finding("OK", "persistence", "append-only file" + loses.get(fsync or "", ""))
    if info.get("rdb_last_bgsave_status") == "err":
        return Finding("FAIL", "persistence", "the last snapshot failed, and Redis may refuse jobs: look at its disk")
    if config.get("save") or (not config and info.get("rdb_saves")):
        text = "snapshots only: a crash of Redis loses every job since the last one; set appendonly yes"
        return Finding("WARN", "persistence", text)
    return Finding("WARN", "persistence", "no append-only file: a crash of Redis loses jobs; set appendonly yes")


# ---------------------------------------------------------------------- rights


def commands() -> list[tuple[str, ...]]:
    """Give one call of each command that arqd needs, ``KEY`` for its key."""
    named = re.compile(r"redis\.p?call[(,] ?'([A-Z]+)'")
    called = {name for script in SCRIPTS.values() for name in named.findall(script.text)}
    return [*SENT, *((name, KEY) for name in sorted(called - {"INFO"}))]


def keys(family: Family) -> dict[str, str]:
    """Give the patterns of keys a user needs for a family, with an example of each."""
    names = family.keys
    found = {f"{prefix}*": prefix + names.job_id("check") for prefix in (JOB, RESULT, RETRY, IN_PROGRESS)}
    found |= {f"{names.queue}*": names.queue, ABORT: ABORT, f"{names.prefix}*": names.key("mark")}
    found["arqd:*"] = LEASE
    for limit in family.values.shared_limits:
        shared = LimitKeys(limit.name)
        found[f"{shared.prefix}*"] = shared.key("conf")
    return found


async def _rights(client: Redis, needed: Mapping[str, str]) -> list[Finding]:
    """Find what this user may not do; ``needed`` has patterns of keys, with an example of each.

    Redis refuses a command when it is queued in a transaction, which is then discarded: so nothing is run, and unlike
    ACL DRYRUN it needs no right of its own and works before Redis 7.
    """
    channel = Channel(client)
    try:
        try:
            await channel.call("MULTI")
        except NoPermissionError:
            return [Finding("FAIL", "rights", "this user may not run MULTI and EXEC: add +@transaction to its ACL")]
        refused = [call for call in commands() if await _refused(channel, call, LEASE) == "command"]
        closed = [
            pattern
            for pattern, key in needed.items()
            if "key" in [await _refused(channel, call, key) for call in (("GET", KEY), ("DEL", KEY))]
        ]
        await channel.call("DISCARD")
    finally:
        channel.close()
    found = []
    if refused:
        names = [" ".join(call[:2]) if call[0] in ("CLIENT", "SCRIPT") else call[0] for call in refused]
        wanted = " ".join("+" + name.lower().replace(" ", "|") for name in names)
        found.append(Finding("FAIL", "rights", f"this user may not run {', '.join(names)}: add {wanted} to its ACL"))
    if closed:
        wanted = " ".join(f"~{pattern}" for pattern in closed)
        found.append(Finding("FAIL", "rights", f"this user may not use {', '.join(closed)}: add {wanted} to its ACL"))
    return found or [Finding("OK", "rights", "every command and key that arqd needs")]


async def _refused(channel: Channel, call: Sequence[str], key: str) -> str:
    """Queue a call: ``command``, ``key`` or nothing is refused. Arguments are added until there are enough."""
    words = [key if word == KEY else word for word in call]
    attempts = [words[:1], *([*words, *["1"] * more] for more in range(4))] if call[1:] == (KEY,) else [words]
    for attempt in attempts:
        try:
            await channel.call(*attempt)
        except NoPermissionError as error:
            return "command" if " run the " in str(error) else "key"
        except ResponseError as error:
            if "wrong number of arguments" not in str(error):
                return ""
        else:
            return ""
    return ""


# ---------------------------------------------------------------------- clock


async def _clock(client: Redis) -> Finding:
    """Compare the clocks; of some readings the quickest tells most."""
    readings = []
    for _ in range(5):
        before = time.time()
        seconds, micros = await client.time()
        after = time.time()
        readings.append(((after - before) / 2, seconds + micros / 1e6 - (before + after) / 2))
    doubt, ahead = min(readings)
    if abs(ahead) - doubt < SKEW:
        return Finding("OK", "clock", f"within {max(abs(ahead) + doubt, 0.001):.3f} s of this machine's")
    text = f"Redis's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return Finding("WARN", "clock", f"{text}: run_at and the times of jobs are off by that much; run NTP on both")
