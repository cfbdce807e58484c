"""What ``arqd check`` finds of servers that work together, each set up wrongly in its own way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from daemon.cli import check_server
from daemon.cli.finding import Finding
from daemon.servers import RedisUrl
from daemon.servers import Servers as Urls
from tests.engine import make_family
from tests.servers import ClusterServers, RedisServer, SentinelServers, free_port, wait_until


async def work(ctx: object) -> None: ...


FAMILIES = [make_family(name, work) for name in ("email", "push", "media")]


def findings(url: RedisUrl) -> list[Finding]:
    async def examine() -> list[Finding]:
        return [finding async for finding in check_server.server(url, FAMILIES)]

    return asyncio.run(examine())


def about(url: RedisUrl, what: str) -> list[tuple[str, str]]:
    """Give level and text of what was found about something."""
    return [(finding.level, finding.text) for finding in findings(url) if finding.what == what]


def told(url: RedisUrl, what: str, level: str, text: str) -> bool:
    found = about(url, what)
    return any(level == each and text in said for each, said in found) or pytest.fail(f"{text!r} is not in {found}")


# ---------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    servers = ClusterServers(tmp_path_factory.mktemp("cluster"), timeout_ms=500, appendonly="yes").start()
    yield servers
    servers.kill()


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    servers = ClusterServers(
        tmp_path_factory.mktemp("cluster"), replicas=1, appendonly="yes", cluster_require_full_coverage="no"
    ).start()
    yield servers
    servers.kill()


def test_a_good_cluster(replicated: ClusterServers) -> None:
    found = findings(replicated.url)
    assert [finding for finding in found if finding.level != "OK"] == []
    assert [finding.what for finding in found if finding.what in ("cluster", "replicas", "coverage")] == [
        "cluster", "replicas",
    ]  # fmt: skip
    for node in replicated.nodes[:3]:
        here = {finding.what for finding in found if finding.text.startswith(f"127.0.0.1:{node.port}")}
        assert here == {"redis", "memory", "persistence", "rights", "clock"}
    homes = next(finding.text for finding in found if finding.what == "cluster")
    for family in FAMILIES:
        owner = replicated.owner(key_slot(family.keys.queue.encode()))
        part = next(part for part in homes.split("; ") if f":{owner.port}: " in part)
        assert family.name in part


def test_a_cluster_without_replicas_whose_failure_stops_all(cluster: ClusterServers) -> None:
    (replicas,) = about(cluster.url, "replicas")
    assert replicas[0] == "WARN"
    assert all(f"127.0.0.1:{node.port}" in replicas[1] for node in cluster.nodes)
    told(cluster.url, "coverage", "WARN", "every family stops, not only its own; set it to no")


@pytest.mark.parametrize(
    ("setting", "wrong", "what", "level", "said"),
    [
        ("maxmemory-policy", "allkeys-lru", "memory", "WARN", "set it to noeviction"),
        ("appendonly", "no", "persistence", "WARN", "set appendonly yes"),
        ("appendfsync", "no", "persistence", "WARN", "set appendfsync everysec"),
    ],
)  # fmt: skip
def test_a_setting_of_one_node(
    cluster: ClusterServers, setting: str, wrong: str, what: str, level: str, said: str
) -> None:
    node = cluster.nodes[1]
    with node.client(decode_responses=True) as client:
        right = client.config_get(setting)[setting]
        client.config_set(setting, wrong)
        try:
            found = about(cluster.url, what)
        finally:
            client.config_set(setting, right)
    (bad,) = [(each, text) for each, text in found if each != "OK"]
    assert bad[0] == level
    assert bad[1].startswith(f"127.0.0.1:{node.port}: ")
    assert said in bad[1]
    assert len(found) == 3


def test_a_full_node(cluster: ClusterServers) -> None:
    with cluster.nodes[2].client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            told(cluster.url, "room", "FAIL", f"127.0.0.1:{cluster.nodes[2].port}: ")
        finally:
            client.config_set("maxmemory", "0")


def test_a_user_who_lacks_rights_on_one_node(cluster: ClusterServers) -> None:
    for node in cluster.nodes:
        with node.client() as client:
            rules = ["-evalsha"] if node is cluster.nodes[0] else []
            client.execute_command("ACL", "SETUSER", "worker", "reset", "on", "nopass", "~*", "+@all", *rules)
    found = about(cluster.url.replace("://", "://worker:any@"), "rights")
    assert sorted(level for level, _ in found) == ["FAIL", "OK", "OK"]
    (refused,) = [text for level, text in found if level == "FAIL"]
    assert refused.startswith(f"127.0.0.1:{cluster.nodes[0].port}: this user may not run EVALSHA")
    for level, text in found:
        # The set of jobs to abort that stock arq has is in a slot of its own and not used in a cluster.
        assert "arq:abort" not in text, level


def test_clocks_of_all_nodes(cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time

    class Early:
        time = staticmethod(lambda: real() + 90)

    monkeypatch.setattr(check_server, "time", Early)
    found = about(cluster.url, "clock")
    assert [level for level, _ in found] == ["WARN"] * 3
    assert all("s behind this machine's" in text for _, text in found)


def test_slots_that_nobody_has(cluster: ClusterServers) -> None:
    for node in cluster.nodes:
        with node.client() as client:
            client.execute_command("CLUSTER", "DELSLOTS", 0, 1, 2)
    try:
        told(cluster.url, "cluster", "FAIL", "3 slots have no node: families in them cannot work; assign them")
    finally:
        with cluster.nodes[0].client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", 0, 1, 2)
    cluster._settle()


def test_a_node_where_one_server_was_meant_and_the_reverse(cluster: ClusterServers, tmp_path: Path) -> None:
    told(cluster.nodes[0].url, "cluster", "FAIL", "a node of a Redis Cluster, which has a part of the keys: use redis+")
    alone = RedisServer(tmp_path).start()
    try:
        told(
            f"redis+cluster://127.0.0.1:{alone.port}", "redis", "FAIL", "this server is no Redis Cluster: use redis://"
        )
    finally:
        alone.kill()


def test_a_primary_alone_and_a_user_who_may_not_ask_for_settings(tmp_path: Path) -> None:
    alone = RedisServer(tmp_path, cluster_enabled="yes", cluster_port=free_port()).start()
    try:
        with alone.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            client.execute_command("ACL", "SETUSER", "worker", "reset", "on", "nopass", "~*", "+@all", "-config")
        url = f"redis+cluster://127.0.0.1:{alone.port}"
        told(url, "cluster", "WARN", "1 primaries: when one dies there is no majority to promote its replica; use 3")
        told(url, "coverage", "WARN", "cluster-require-full-coverage is yes")
        assert about(url.replace("://", "://worker:any@"), "coverage") == []
    finally:
        alone.kill()


def test_a_node_that_is_gone(tmp_path: Path) -> None:
    servers = ClusterServers(tmp_path, timeout_ms=300).start()
    try:
        dead = servers.nodes[1]
        dead.kill()

        def noticed() -> bool:
            with servers.nodes[0].client(decode_responses=True) as client:
                return client.execute_command("CLUSTER INFO")["cluster_state"] == "fail"  # type: ignore[call-overload]

        wait_until(noticed, "it was not noticed")
        told(servers.url, "cluster", "FAIL", "the cluster's state is fail")
        told(servers.url, "redis", "FAIL", f"127.0.0.1:{dead.port}: Redis cannot be reached")
        # The others are examined all the same.
        assert len(about(servers.url, "persistence")) == 2
    finally:
        servers.kill()


# ---------------------------------------------------------------- Sentinel


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    servers = SentinelServers(tmp_path_factory.mktemp("sentinel"), sentinels=3, down_ms=500, appendonly="yes").start()
    yield servers
    servers.kill()


def test_good_sentinels(sentinel: SentinelServers) -> None:
    found = findings(sentinel.url)
    assert {finding.level for finding in found} == {"OK"}
    assert ("OK", "3 watch arqd, of which 2 have to agree that it is gone") in about(sentinel.url, "sentinel")
    assert ("OK", "1 of arqd") in about(sentinel.url, "replicas")


def test_a_sentinel_that_is_not_there(sentinel: SentinelServers) -> None:
    port = free_port()
    told(
        sentinel.url.replace("://", f"://127.0.0.1:{port},"), "sentinel", "WARN", f"127.0.0.1:{port} cannot be reached"
    )


def test_a_name_that_no_sentinel_watches(sentinel: SentinelServers) -> None:
    url = sentinel.url.replace("/arqd/", "/orders/")
    found = [(level, text) for level, text in about(url, "sentinel") if "check the name in the URL" in text]
    assert [level for level, _ in found] == ["FAIL"] * 3
    told(url, "redis", "FAIL", "No master found for 'orders'")


def test_a_setting_of_the_primary(sentinel: SentinelServers) -> None:
    with sentinel.primary().client() as client:
        client.config_set("appendonly", "no")
        try:
            told(sentinel.url, "persistence", "WARN", "set appendonly yes")
        finally:
            client.config_set("appendonly", "yes")


def test_a_replica_where_the_primary_was_meant(sentinel: SentinelServers) -> None:
    replica = next(node for node in sentinel.nodes if node is not sentinel.primary())
    told(replica.url, "role", "FAIL", "set ARQD_REDIS_URL to its primary, or use redis+sentinel://")


def test_one_sentinel_and_no_replica_and_two_who_disagree(tmp_path: Path) -> None:
    both = [SentinelServers(tmp_path, replicas=0), SentinelServers(tmp_path / "server0", replicas=0)]
    try:
        for servers in both:
            servers.start()
        told(
            both[0].url, "sentinel", "WARN", "1 watch arqd, of which 1 have to agree that it is gone: with fewer than 3"
        )
        told(both[0].url, "replicas", "WARN", "arqd has no replica")
        url = both[0].url.replace("/arqd/", f",127.0.0.1:{both[1].sentinels[0].port}/arqd/")
        told(url, "sentinel", "FAIL", "the Sentinels disagree on which server is the primary of arqd")
    finally:
        for servers in both:
            servers.kill()


def test_too_few_sentinels_left_for_a_failover(tmp_path: Path) -> None:
    servers = SentinelServers(tmp_path, replicas=0, sentinels=3, down_ms=300)
    try:
        servers.start()
        for sentinel in servers.sentinels[1:]:
            sentinel.kill()

        def noticed() -> bool:
            return any("no failover is possible" in text for _, text in about(servers.url, "sentinel"))

        wait_until(noticed, "it was not noticed")
    finally:
        servers.kill()


def test_a_replica_that_is_not_connected(tmp_path: Path) -> None:
    servers = SentinelServers(tmp_path)
    primary, replica = servers.nodes
    # It takes a minute before it sends the replica anything.
    primary._config["repl-diskless-sync-delay"] = 60
    try:
        primary.start()
        replica.start()

        def known() -> bool:
            with primary.client() as client:
                return client.info("replication")["connected_slaves"] == 1  # type: ignore[index]

        wait_until(known, "the replica was not known")
        servers.sentinels[0].start()

        def noticed() -> bool:
            found = about(servers.url, "replicas")
            return ("WARN", f"127.0.0.1:{replica.port} not connected to the primary: a failover loses more") in found

        wait_until(noticed, "it was not noticed")
    finally:
        servers.kill()


# ---------------------------------------------------------------- several servers


async def test_several_servers_each_by_its_name(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("near", "far")]
    for folder in folders:
        folder.mkdir()
    near = RedisServer(folders[0], appendonly="yes").start()
    far = RedisServer(folders[1], maxmemory="100mb", maxmemory_policy="allkeys-lru", appendonly="yes").start()
    try:
        found = [each async for each in _examined(Urls(near.url, {"push": far.url}))]
        bad = [(each.what, each.level, each.text) for each in found if each.level != "OK"]
        assert [(what, level) for what, level, _ in bad] == [("memory", "FAIL")]
        assert f"127.0.0.1:{far.port}/0: maxmemory-policy is allkeys-lru" in bad[0][2]
        far.kill()
        found = [each async for each in _examined(Urls(near.url, {"push": far.url}))]
        (gone,) = [each.text for each in found if each.level == "FAIL"]
        assert f"127.0.0.1:{far.port}/0: Redis cannot be reached" in gone
        assert sum(f":{near.port}/0" in each.text for each in found) == 5
    finally:
        near.kill()
        far.kill()


def _examined(url: RedisUrl) -> AsyncIterator[Any]:
    return check_server.server(url, FAMILIES)
