"""What was sent before: receipts in Redis, one hash per message, one field per recipient who has it.

``<data>:sent:<sha256 of the idempotency key>``     recipient (hashed) -> ``{"at", "id"}``, kept 30 days
``<data>:sending:<sha256 of the idempotency key>``  the job that sends it now: its id, a line end, the try's own name
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
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
# A claim is released when the try ends, whatever its end. So long after the try's time limit, seconds, one of a worker
# that died in mid-send lapses, and another job with the same key may try. The job itself may at once.
CLAIM = 600
# How long a job waits for another one that sends the same message, seconds.
WAIT = 20

# Claims the message unless another job has it, and gives its receipts: whoever held it before has written what it sent.
# A job that takes up the claim of its own earlier try has it for this try's time.
_CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, #ARGV[1]) ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'EX', ARGV[3])
return redis.call('HGETALL', KEYS[2])
"""
# Only the holder may release: its claim may be another's by now, or that of another try of the same job.
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
        self._job, self._try = f"{ctx.job_id}\n".encode(), secrets.token_hex(8).encode()
        self._lasts = CLAIM + math.ceil(ctx.remaining)
        self._sent = ctx.key("sent", digest)
        self._sending = ctx.key("sending", digest)
        self._known: dict[str, Receipt] = {}

    async def __aenter__(self) -> Receipts:
        """Claim the message and read its receipts, in one round trip.

        Raises:
            RetryAfter: another job sends the same message now; no try is counted.
        """
        sent = await self._redis.eval(_CLAIM, 2, self._sending, self._sent, self._job, self._try, self._lasts)
        if sent is None:
            logger.info("another job sends the same message now: looking again in %d s", WAIT)
            raise RetryAfter(WAIT, "job")
        for field, value in zip(sent[::2], sent[1::2], strict=True):
            receipt = json.loads(value)
            self._known[field.decode()] = Receipt(datetime.fromisoformat(receipt["at"]), receipt["id"])
        return self

    async def __aexit__(self, *error: object) -> None:
        # The message may be out: not being able to release the claim, which lapses by itself, must not fail the job.
        with suppress(RedisError, OSError):
            await self._redis.eval(_RELEASE, 1, self._sending, self._job + self._try)

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
