"""Puts what is stored under an older key under the first key of the ring, so that the older one can be removed.

It goes in portions, and a value that changes meanwhile is left to the next pass: nothing is locked, workers go on.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from daemon import codec
from daemon.broker import Broker, PageEntry
from daemon.connecting.connections import translated
from daemon.encryption import FORM, SEALED_JSON, SECRET, JobCipher, KeyRing, key_name
from daemon.errors import KeyMissing, Unreadable
from daemon.inspecting.job_info import HELD, SUSPECT
from daemon.keys import JOB, RESULT, FamilyKeys, family_of
from daemon.pages import INDEX
from daemon.records import MAGIC, split_record

#: Jobs in a portion.
PORTION = 100
#: Passes over a queue in which jobs move.
PASSES = 10

_HASHES = ("receipts", "history", "logs", "progress")
_PARTS = ("field", "payload", "result", "error", "history", "log", "note")
_SEALED = re.compile(rb'\{"\%s":"%s([A-Za-z0-9+/=]*)"\}' % (SECRET.encode(), FORM.encode()))


@dataclass(slots=True)
class Reencrypted:
    """What became of a family: values ``changed``, jobs ``active`` at the end (what they leave may be under an older
    key), values ``unreadable`` (their key is not in the ring, or they are damaged)."""

    changed: int = 0
    active: int = 0
    unreadable: int = 0


async def reencrypt(
    redis: Any, keys: FamilyKeys, ring: KeyRing, told: Callable[[int], None] = lambda changed: None
) -> Reencrypted:
    """Put everything of a family under the ring's first key.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        told: called after each portion with the number of values changed.

    Raises:
        InvalidJob: when the ring has no key.
        RedisUnavailable, RedisRefused, RedisFull: what was done stays done; call it again.
    """
    ring.first_tag()
    broker, found = Broker(redis, keys), Reencrypted()
    with translated():
        for _ in range(PASSES):
            before, found.unreadable = found.changed, 0
            for index in ("queue", *INDEX.values()):
                async for ids in _portions(broker, index):
                    await _portion(broker, ring, ids, found)
                    told(found.changed)
            if found.changed == before:
                break
        found.active = await redis.zcount(keys.queue, HELD, f"({SUSPECT}")
    return found


async def _portions(broker: Broker, index: str) -> Any:
    last: PageEntry | None = None
    while page := await broker.page(index, "-inf", "+inf", down=False, after=last, count=PORTION):
        yield [entry.id for entry in page]
        last = page[-1]


async def _portion(broker: Broker, ring: KeyRing, ids: Sequence[bytes], found: Reencrypted) -> None:
    async with broker.redis.pipeline(transaction=False) as pipe:
        for prefix in (JOB, RESULT):
            pipe.mget([prefix.encode() + job_id for job_id in ids])
        for name in _HASHES:
            pipe.hmget(broker.keys.key(name), ids)
        columns = await pipe.execute()
    values = [
        (where, broker.keys.family, job_id, old)
        for where, column in zip(("job", "result", *_HASHES), columns, strict=True)
        for job_id, old in zip(ids, column, strict=True)
    ]
    if await broker.redis.exists(broker.keys.key("flows")):
        values += await _kept_of_children(broker, ids)
    changes: list[bytes | str] = []
    for where, family, job_id, old in values:
        if old is None:
            continue
        renewal = _Renewal(JobCipher(ring, family, job_id.decode("utf-8", "surrogateescape")), ring)
        try:
            new = renewal.value(where, old)
        except (KeyMissing, Unreadable):
            found.unreadable += 1
            continue
        if new != old:
            changes += [where, job_id, old, new, renewal.need(old) if where == "job" else ""]
    if changes:
        found.changed += sum(await broker.run("reencrypt", *changes))


async def _kept_of_children(broker: Broker, ids: Sequence[bytes]) -> list[tuple[str, str, bytes, bytes]]:
    """Give the results that jobs keep of those they waited for, which may be of other families."""
    names = [job_id.decode("utf-8", "surrogateescape") for job_id in ids]
    async with broker.redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(broker.keys.key("children", name))
        kept = await pipe.execute()
    return [
        (f"children:{name}", family_of(child.decode()), child, value)
        for name, children in zip(names, kept, strict=True)
        for child, value in children.items()
    ]


class _Renewal:
    """The values of one job."""

    def __init__(self, cipher: JobCipher, ring: KeyRing) -> None:
        self._cipher, self._first = cipher, ring.first
        self._older = ""

    def value(self, where: str, old: bytes) -> bytes:
        """Give a stored value under the first key.

        Raises:
            KeyMissing, Unreadable: when it cannot be read.
        """
        if where == "receipts":
            return b"\n".join(self._receipts(old))
        if where == "job" and old.startswith(MAGIC):
            head, newline, body = old.partition(b"\n")
            if codec.is_sealed_body(body):
                sealed, rest = codec.split_sealed(body)
                sealed = self._sealed(sealed, ("payload",))
                return head + newline + codec.join_sealed(sealed, rest)
        return self._json(old, _PARTS)

    def need(self, record: bytes) -> str:
        """Give what a job is parked for by a worker that lacks its older key."""
        return f"{split_record(record).function}\x1fkey {self._older}"

    def _receipts(self, old: bytes) -> Iterator[bytes]:
        for line in old.split(b"\n"):
            step, tab, data = line.partition(b"\t")
            yield step + tab + self._json(data, ("receipt " + step.decode(), "field"))

    def _json(self, data: bytes, parts: Sequence[str]) -> bytes:
        if SEALED_JSON not in data:
            return data
        return _SEALED.sub(lambda match: self._packed(match, parts), data)

    def _packed(self, match: re.Match[bytes], parts: Sequence[str]) -> bytes:
        sealed = self._sealed(base64.b64decode(match[1]), parts)
        return SEALED_JSON + base64.b64encode(sealed) + b'"}'

    def _sealed(self, sealed: bytes, parts: Sequence[str]) -> bytes:
        """Which part it is, its associated data tell. Marked fields of an encrypted family are encrypted twice."""
        name = key_name(sealed)
        for part in parts:
            try:
                data = self._cipher.open(part, sealed)
            except Unreadable:
                continue
            inner = self._json(data, ("field",))
            if name == self._first and inner == data:
                return sealed
            self._older = name if name != self._first else self._older
            return self._cipher.seal(part, inner)
        raise Unreadable("this cannot be decrypted: it was changed, or belongs to another job")
