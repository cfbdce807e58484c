"""What was sent before: receipts in Redis, one hash per message, one field per recipient who has it.

``<data>:sent:<sha256 of the idempotency key>``     recipient (hashed) -> ``{"at", "id"}``, kept 30 days
``<data>:sending:<sha256 of the idempotency key>``  the id of the job that sends it now
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from daemon.context import JobContext
from daemon.errors import RetryAfter
from handlers.integrations.addresses import parse_mailbox

logger = logging.getLogger("arqd.email")

KEEP = 30 * 86_400
# Released when the job ends, whatever its end; so long after a worker died in mid-send, another job with the same key
# may try. The job itself may at once.
CLAIM = 600
# How long a job waits for another one that sends the same message, seconds.
WAIT = 20

# Only the holder may release: its claim may have lapsed and be another's by now.
_RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A recipient has the message: when it was sent and as which Message-ID."""

    sent_at: datetime
    message_id: str


class Receipts:
    """The receipts of one message. As a context manager it claims the message, so that no other job sends it.

    Args:
        ctx: the job that wants to send it.
        key: its idempotency key.
    """

    def __init__(self, ctx: JobContext, key: str) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        self._redis: Any = ctx.redis
        self._job_id = ctx.job_id.encode()
        self._sent = ctx.key("sent", digest)
        self._sending = ctx.key("sending", digest)
        self._known: dict[str, Receipt] = {}

    async def __aenter__(self) -> Receipts:
        """Claim the message and read its receipts, in one round trip.

        Raises:
            RetryAfter: another job sends the same message now; no try is counted.
        """
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(self._sending, self._job_id, nx=True, ex=CLAIM)
            pipe.get(self._sending)
            # After the claim: who held it before has written what it sent.
            pipe.hgetall(self._sent)
            _, holder, sent = await pipe.execute()
        if holder != self._job_id:
            logger.info("another job sends the same message now: looking again in %d s", WAIT)
            raise RetryAfter(WAIT, "job")
        for field, value in sent.items():
            receipt = json.loads(value)
            self._known[field.decode()] = Receipt(datetime.fromisoformat(receipt["at"]), receipt["id"])
        return self

    async def __aexit__(self, *error: object) -> None:
        # The message may be out: not being able to release the claim, which lapses by itself, must not fail the job.
        with suppress(RedisError, OSError):
            await self._redis.eval(_RELEASE, 1, self._sending, self._job_id)

    def of(self, address: str) -> Receipt | None:
        """The receipt of a recipient, if it has the message."""
        return self._known.get(_field(address))

    async def record(self, addresses: Collection[str], receipt: Receipt) -> None:
        """Write down that these recipients have the message."""
        value = json.dumps({"at": receipt.sent_at.isoformat(), "id": receipt.message_id})
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._sent, mapping={_field(address): value for address in addresses})
            pipe.expire(self._sent, KEEP)
            await pipe.execute()


def _field(address: str) -> str:
    return hashlib.sha256(parse_mailbox(address).identity.encode()).hexdigest()[:32]
