"""Two families on one server whose outboxes are carried by hand or by a courier, with one clock."""

from __future__ import annotations

import time
from typing import Any

from daemon.broker import NewJob
from daemon.flows.broker import ChildEnd, FlowBroker, FlowJob, OutboxEntry
from daemon.flows.courier import COPIED_RESULT, Courier, ends_of
from daemon.keys import FamilyKeys, family_of
from tests.lua.state import A, Engine

TOKEN = "0123456789abcdef"
__all__ = ["COPIED_RESULT", "TOKEN", "Flows"]


def result(value: str = "1") -> bytes:
    """A result record as the codec writes it."""
    return b'{"s":true,"t":1,"f":"send","et":1,"r":%s,"a":[],"k":{}}' % value.encode()


def failure(message: str = "boom") -> bytes:
    error = f'{{"type":"ValueError","message":"{message}","traceback":"...","reason":"tries"}}'
    return b'{"s":false,"t":1,"f":"send","et":1,"r":%s,"a":[],"k":{}}' % error.encode()


class Flows:
    """Parents in ``a``, children in ``b`` (ids ``a:name`` and ``b:name``)."""

    def __init__(self, redis: Any, now: int | None = None) -> None:
        # What expires does so by the server's own clock.
        self.redis = redis
        begin = now or int(time.time() * 1000)
        self.engines = {name: Engine(redis, begin, name) for name in "ab"}
        self.brokers = {name: FlowBroker(redis, FamilyKeys.of(name), begin) for name in "ab"}
        self.token = TOKEN

    async def open(self) -> Flows:
        for engine in self.engines.values():
            await engine.sync(A)
        return self

    @property
    def now(self) -> int:
        return self.engines["a"].now

    @property
    def courier(self) -> Courier:
        return Courier(self.redis, "ab", self.now)

    def advance(self, ms: int) -> None:
        for engine in self.engines.values():
            engine.advance(ms)
        for broker in self.brokers.values():
            broker.now = self.now

    def id(self, name: str) -> str:
        family, _, rest = name.partition(":")
        return f"{{{family}}}:{rest}"

    def job(self, name: str, *, children: tuple[str, ...] = (), edges: tuple[str, ...] = (), **options: Any) -> FlowJob:
        """``edges``: ``"a:parent fail"`` each, in their order the index."""
        made: NewJob = self.engines[name[0]].job(name[2:], **options)
        lines = []
        for index, edge in enumerate(edges):
            parent, rule = edge.split()
            lines.append(f"{self.id(parent)}\t{rule}\t{index}\t{self.token}")
        return FlowJob(made, "\n".join(lines), [self.id(child) for child in children])

    def there(self, name: str, edge: str) -> FlowJob:
        """A job that should be there."""
        found = self.job(name, edges=(edge,))
        return found._replace(job=found.job._replace(tail=b""))

    async def commit(
        self, name: str, *children: str, definitions: tuple[bytes, ...] = (), count: int | None = None
    ) -> Any:
        root = self.job(name, children=children)
        total = len(definitions) if count is None else count
        found = await self.brokers[name[0]].commit(self.token, "ab", root, total, definitions)
        await self.engines[name[0]].check()
        return found

    async def make(self, *jobs: FlowJob, read_at: int | None = None) -> bool | None:
        family = family_of(jobs[0].job.id)
        wrote = await self.brokers[family].make(self.token, self.now if read_at is None else read_at, jobs)
        # An earlier due time wakes a worker, too.
        await self.engines[family].check(awake=any(job.job.when != "now" for job in jobs))
        return wrote

    async def parent(self, *children: str, rule: str = "fail", name: str = "a:p") -> None:
        """A parent in ``a`` with children in ``b``, all made."""
        assert isinstance(await self.commit(name, *children), bytes)
        await self.make(*(self.job(child, edges=(f"{name} {rule}",)) for child in children))

    async def told(self, family: str = "b") -> list[ChildEnd]:
        """What stands in an outbox of ended children, read but not acknowledged."""
        found: list[ChildEnd] = []
        for entry, fields in await self.redis.xrange(FamilyKeys.of(family).key("outbox")):
            flat = [part for pair in fields.items() for part in pair]
            if flat[0] != b"create":
                found += ends_of(OutboxEntry(entry, flat))
        return found

    async def deliver(self) -> None:
        await self.courier.sweep()
        for engine in self.engines.values():
            await engine.check()

    async def end(self, name: str, how: str = "complete") -> None:
        """Claim the next job of a family, which must be this one, and end it."""
        engine = self.engines[name[0]]
        (mine,) = await engine.claim()
        assert mine.name == name[2:]
        await engine.settle(mine.complete(result()) if how == "complete" else getattr(mine, how)(failure()))

    async def band(self, name: str) -> str | None:
        score = (await self.engines[name[0]].look(name[2:])).score
        if score is not None and 2**46 + 2**45 <= score < 2**47:
            return "blocked"
        return (await self.engines[name[0]].look(name[2:])).band

    async def state(self, name: str) -> str | None:
        """What is kept of a parent: ``w``, ``r`` or ``f`` and the text."""
        found = await self.redis.hget(FamilyKeys.of(name[0]).key("flows"), self.id(name))
        return None if found is None else found.decode().replace(" " + self.token, "")

    async def kept(self, name: str) -> dict[str, str]:
        """What a parent keeps of its ended children: index, kind and result."""
        found = await self.redis.hgetall(FamilyKeys.of(name[0]).key("children", self.id(name)))
        kept = {}
        for child, value in found.items():
            head, _, text = value.decode().partition("\n")
            index, _, kind = head.split("\t")
            kept[child.decode().replace("{", "").replace("}", "")] = f"{index} {kind} {text}"
        return kept

    async def pending(self, name: str) -> set[str]:
        found = await self.redis.smembers(FamilyKeys.of(name[0]).key("pending", self.id(name)))
        return {child.decode().replace("{", "").replace("}", "") for child in found}

    async def traces(self) -> set[str]:
        """Keys of flows that are there, without those that expire."""
        names = ("flows", "parents", "outbox", "pending", "children", "defs", "made", "courier")
        found = {key.decode() for key in await self.redis.keys("{*}:*")}
        found = {key for key in found if key.split(":")[1] in names}
        return {key for key in found if await self.redis.ttl(key) < 0}
