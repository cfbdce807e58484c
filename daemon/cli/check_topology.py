"""What ``arqd check`` asks of servers that work together: a cluster's nodes, Sentinels and the servers they watch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from daemon.cli.finding import Finding
from daemon.connecting.connections import LOST

if TYPE_CHECKING:
    from daemon.connecting.cluster import Address, Cluster
    from daemon.family import Family

SLOTS = 16384
#: With fewer there is no majority left when one of them is gone.
ENOUGH = 3


async def cluster(client: Cluster, families: Sequence[Family]) -> AsyncIterator[Finding]:
    """Examine how the nodes of a cluster work together, and tell where each family is."""
    primaries = await client.primaries()
    first = await _living(primaries.values())
    slots = await first.execute_command("CLUSTER SLOTS")
    homes: dict[Address, list[str]] = {address: [] for address in primaries}
    for family in families:
        home = client.owner(key_slot(family.keys.queue.encode()))
        if home is not None:
            homes[home].append(family.name)
    told = "; ".join(f"{_written(address)}: {', '.join(names) or 'no family'}" for address, names in homes.items())
    yield Finding("OK", "cluster", f"{len(primaries)} primaries. {told}")
    missing = SLOTS - sum(last - first + 1 for first, last, *_ in slots)
    if missing:
        yield Finding("FAIL", "cluster", f"{missing} slots have no node: families in them cannot work; assign them")
    elif (state := await _state(first)) != "ok":
        yield Finding("FAIL", "cluster", f"the cluster's state is {state}: look at its nodes (CLUSTER NODES)")
    if len(primaries) < ENOUGH:
        text = f"{len(primaries)} primaries: when one dies there is no majority to promote its replica; use {ENOUGH}"
        yield Finding("WARN", "cluster", text)
    alone = sorted({_written((str(entry[2][0], "utf-8"), entry[2][1])) for entry in slots if len(entry) < 4})
    if alone:
        text = f"no replica of {', '.join(alone)}: when it dies its families stop until it is back; add one"
        yield Finding("WARN", "replicas", text)
    else:
        yield Finding("OK", "replicas", "every primary has one")
    if await _setting(first, "cluster-require-full-coverage") == "yes":
        text = "cluster-require-full-coverage is yes: while one primary is gone every family stops, not only its own"
        yield Finding("WARN", "coverage", f"{text}; set it to no")


async def _living(nodes: Iterable[Any]) -> Any:
    """Give the first node that answers."""
    failure: Exception | None = None
    for node in nodes:
        try:
            await node.ping()
        except LOST as error:
            failure = failure or error
        else:
            return node
    assert failure is not None, "a cluster that answers has primaries"
    raise failure


async def _state(node: Any) -> str:
    info = await node.execute_command("CLUSTER INFO")
    lines = (
        info if isinstance(info, dict) else dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
    )
    return str(lines.get("cluster_state"))


async def _setting(node: Any, name: str) -> str | None:
    try:
        found: dict[str, str] = await node.config_get(name)
    except ResponseError:
        # This user may not: a managed cluster.
        return None
    return found.get(name)


async def sentinels(client: Any) -> AsyncIterator[Finding]:
    """Examine the Sentinels a client asks, and what they know of its primary."""
    pool = client.connection_pool
    name, known = pool.service_name, pool.sentinel_manager.sentinels
    answers: list[tuple[Any, dict[str, Any]]] = []
    for sentinel in known:
        settings = sentinel.connection_pool.connection_kwargs
        where = f"{settings['host']}:{settings['port']}"
        try:
            answers.append((sentinel, await sentinel.sentinel_master(name)))
        except LOST as error:
            yield Finding(
                "WARN", "sentinel", f"{where} cannot be reached ({error}): start it, or take it out of the URL"
            )
        except RedisError as error:
            yield Finding("FAIL", "sentinel", f"{where} does not watch {name!r} ({error}): check the name in the URL")
    if not answers:
        return
    sentinel, state = answers[0]
    count = state["num-other-sentinels"] + 1
    try:
        await sentinel.execute_command("SENTINEL CKQUORUM", name)
    except ResponseError as error:
        yield Finding("FAIL", "sentinel", f"no failover is possible: {error}")
    else:
        told = f"{count} watch {name}, of which {state['quorum']} have to agree that it is gone"
        if count < ENOUGH:
            yield Finding("WARN", "sentinel", f"{told}: with fewer than {ENOUGH} none may be missing; run {ENOUGH}")
        else:
            yield Finding("OK", "sentinel", told)
    if {(found["ip"], found["port"]) for _, found in answers} != {(state["ip"], state["port"])}:
        yield Finding("FAIL", "sentinel", f"the Sentinels disagree on which server is the primary of {name}")
    replicas = await sentinel.sentinel_slaves(name)
    behind = [f"{each['ip']}:{each['port']}" for each in replicas if each.get("master-link-status") != "ok"]
    if not replicas:
        yield Finding("WARN", "replicas", f"{name} has no replica: there is nothing to fail over to; add one")
    elif behind:
        yield Finding("WARN", "replicas", f"{', '.join(behind)} not connected to the primary: a failover loses more")
    else:
        yield Finding("OK", "replicas", f"{len(replicas)} of {name}")


def _written(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
