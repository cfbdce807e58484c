"""Entries nobody should have written, one at a time, before real workers: told, put aside, and the others go on."""

from __future__ import annotations

import pickle
import time

from daemon.records import MAGIC
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Work
from tests.faults.workshop import KEYS, Workshop

PREFIX = KEYS.prefix.encode()


def record(body: bytes, function: bytes = b"work", header: bytes = b"518bcfe56800") -> bytes:
    return MAGIC + header + b" " + function + b"\t\n" + body


GOOD = b'[{"name":"odd"}]'
#: Entry's id (behind the tag), payload, score (None: due now), neighbouring keys, and what its worker's log says; None
#: for what does no harm and is simply run.
Entry = tuple[bytes, bytes | None, float | None, dict[str, tuple[str, ...]], str | None]
KINDS: dict[str, Entry] = {
    "empty": (b"odd", b"", None, {}, "dead letter"),
    "garbage": (b"odd", b"\x00\xff\xfe garbage", None, {}, "dead letter"),
    "half a header": (b"odd", b"q518b", None, {}, "dead letter"),
    "letters for numbers": (b"odd", record(GOOD, header=b"x y z"), None, {}, "dead letter"),
    "a pickle": (b"odd", pickle.dumps({"f": "work", "a": (), "k": {}, "t": None, "et": 1}), None, {}, "dead letter"),
    "no JSON": (b"odd", record(b"{"), None, {}, "dead letter"),
    "JSON of another shape": (b"odd", record(b'1,"k":2'), None, {}, "dead letter"),
    "options of another type": (b"odd", record(b'[],"o":7'), None, {}, "dead letter"),
    "a payload that does not fit": (b"odd", record(b'[{"name":[1]}]'), None, {}, "dead letter"),
    "a function that is not text": (b"odd", record(GOOD, b"\xff\xfe"), None, {}, "dead letter"),
    "a time beyond all calendars": (b"odd", record(GOOD, header=b"5" + b"9" * 25), None, {}, "dead letter"),
    "an id that is not UTF-8": (b"\xff\xfe", b"garbage", None, {}, "dead letter"),
    "no payload": (b"odd", None, None, {}, "its payload is gone"),
    "a score of minus infinity": (b"odd", record(GOOD), float("-inf"), {}, None),
    "a score of nought": (b"odd", record(GOOD), 0, {}, None),
    "tries that are no number": (b"odd", record(GOOD), None, {"arq:retry:": ("SET", "many")}, None),
    "neighbours of another type": (
        b"odd", record(GOOD), None,
        {"arq:retry:": ("HSET", "x", "1"), "arq:in-progress:": ("HSET", "x", "1")}, None,
    ),
}  # fmt: skip


async def plant(shop: Workshop, entry: Entry, number: int) -> None:
    """Write an entry as somebody with access to Redis could, and wake a worker."""
    name, payload, score, neighbours, _ = entry
    job_id = PREFIX + name + str(number).encode()
    with shop.server.client() as redis:
        if payload is not None:
            redis.set(b"arq:job:" + job_id, payload)
        for prefix, (command, *rest) in neighbours.items():
            redis.execute_command(command, prefix.encode() + job_id, *rest)
        redis.zadd(KEYS.queue, {job_id: time.time() * 1000 if score is None else score})
        redis.zadd(KEYS.key("mark"), {"1": 0})


def test_there_are_seventeen() -> None:
    assert len(KINDS) == 17


async def test_malformed_entries_one_at_a_time(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    worker = await shop.started()
    async with shop.producer() as producer:
        for number, (kind, entry) in enumerate(KINDS.items()):
            before = len(worker.log.read_text())
            await plant(shop, entry, number)
            good = await producer.enqueue(Work(name=kind.replace(" ", "-")))
            assert (await good.result(timeout=60)).pid == worker.pid
            with shop.server.client() as redis:
                await shop.until(lambda client=redis: client.zcard(KEYS.queue) == 0, f"{kind}: nothing is left", 10)
            said = entry[-1]
            if said is not None:
                await shop.until(lambda at=before, text=said: text in worker.log.read_text()[at:], f"{kind}: told")
            assert worker.status is None
            assert await shop.leaks() == {}, kind
    print(f"\nmalformed entries of {len(KINDS)} kinds: 0 deaths, 0 left behind, each told, good jobs unaffected")
