"""The email family's functions: one message, and the fan-out of many."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError

from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.payload import Payload
from daemon.producing.options import JobOptions
from handlers.email.message import Composer
from handlers.email.payloads import BulkEmail, RefusedRecipient, SendBulkEmail, SendEmail, SentEmail
from handlers.email.receipts import Receipt, Receipts
from handlers.integrations.addresses import parse_mailbox
from handlers.integrations.mail import MailError, MailRefused, MailTransport, Reply

logger = logging.getLogger("arqd.email")

FAN_OUT = 1000
FAN_OUT_BYTES = 16_000_000
#: Waits between attempts to write a receipt, seconds: without it a retry would send the message again.
RECEIPT_WAITS = (0.1, 0.5, 2.0)


class TryAgainLater(MailError):
    """The mail server refused recipients for now."""


@dataclass(frozen=True, slots=True)
class MailService:
    """What the family opens at start and finds in its context as ``mail``."""

    composer: Composer
    transport: MailTransport


async def send_email(ctx: JobContext, job: SendEmail) -> SentEmail:
    """Send one message, once.

    1. Claim the message; what was sent to everyone before is skipped.
    2. Compose it, in a thread.
    3. Hand it over for the recipients who do not have it yet.
    4. Write down who has it now.
    5. Decide: anyone refused for now makes the job try again, for those only; everyone refused for good is an error.

    Raises:
        RetryAfter: another job sends the same message now.
        PermanentError: the message cannot be made, or it or every recipient is refused for good (5xx).
        TryAgainLater, MailRefused, MailUnavailable: 4xx, connection or login; the policy tries again.
    """
    mail: MailService = ctx["mail"]
    key = job.idempotency_key or ctx.job_id
    message_id = mail.composer.message_id(key)
    async with Receipts(ctx, key) as receipts:
        earlier = [receipt for address in job.to if (receipt := receipts.of(address))]
        waiting = [parse_mailbox(address).address for address in job.to if receipts.of(address) is None]
        if not waiting:
            return SentEmail(skipped=True, reason=f"sent before, at {earlier[0].sent_at:%Y-%m-%d %H:%M:%S} UTC")

        message = await asyncio.to_thread(mail.composer.compose, job, message_id)
        try:
            refused = await mail.transport.send(message.sender, waiting, message.data, utf8=message.utf8)
        except MailRefused as error:
            if error.reply.is_permanent:
                raise PermanentError(f"the mail server refuses the message: {error}") from None
            raise

        receipt = Receipt(datetime.now(UTC), message_id)
        accepted = [address for address in waiting if address not in refused]
        if accepted:
            await _record(receipts, accepted, receipt)
        later = {address: reply for address, reply in refused.items() if not reply.is_permanent}
        if later:
            have = f"{len(job.to) - len(refused)} of {len(job.to)} recipients have it"
            raise TryAgainLater(_told(later, f"{have}, {len(later)} refused for now"))
        if not accepted and not earlier:
            raise PermanentError(_told(refused, "the mail server refuses every recipient"))
        sent = receipt if accepted else earlier[0]
        return SentEmail(
            sent_at=sent.sent_at,
            message_id=sent.message_id,
            refused=tuple(RefusedRecipient(recipient=a, code=r.code, reply=r.text) for a, r in refused.items()),
        )


async def send_bulk_email(ctx: JobContext, job: SendBulkEmail) -> BulkEmail:
    """Enqueue one ``send_email`` job per recipient, at the bulk job's priority, a thousand in one round trip.

    The first recipient's message is made before, and thrown away: what is wrong with all of them is told once. Each
    job's id and idempotency key follow from this job's and the recipient, so that nobody gets two messages when the
    fan-out itself is tried again.

    Raises:
        PermanentError: the message cannot be made.
    """
    mail: MailService = ctx["mail"]
    key = job.idempotency_key or ctx.job_id
    common = job.model_dump(exclude={"to", "idempotency_key"})
    await asyncio.to_thread(mail.composer.compose, SendEmail(to=job.to[:1], **common), mail.composer.message_id(key))
    # Every recipient's job carries the whole context: a large one must not fill the memory a thousand times.
    at_once = max(1, min(FAN_OUT, FAN_OUT_BYTES // len(job.model_dump_json(exclude={"to"}))))
    created = 0
    for start in range(0, len(job.to), at_once):
        # A thousand addresses to parse and payloads to validate would hold up the mails that are sent meanwhile.
        jobs = await asyncio.to_thread(_singles, job.to[start : start + at_once], key, common)
        handles = await ctx.producer.enqueue_each(jobs)
        created += sum(handle.created for handle in handles)
        done = start + len(handles)
        await ctx.progress(100 * done / len(job.to), f"{done} of {len(job.to)} recipients")
    return BulkEmail(recipients=len(job.to), enqueued=created, existed=len(job.to) - created)


def _singles(
    recipients: Sequence[str], key: str, common: Mapping[str, Any]
) -> list[tuple[tuple[Payload, None], JobOptions]]:
    """Make the jobs of some recipients."""
    jobs: list[tuple[tuple[Payload, None], JobOptions]] = []
    for address in recipients:
        digest = hashlib.sha256(f"{key}\n{parse_mailbox(address).identity}".encode()).hexdigest()
        single = SendEmail(to=(address,), idempotency_key=f"bulk:{digest}", **common)
        jobs.append(((single, None), {"job_id": f"bulk-{digest[:32]}", "priority": SendBulkEmail.__job__.priority}))
    return jobs


async def _record(receipts: Receipts, accepted: list[str], receipt: Receipt) -> None:
    """Write the receipt even when the job is cancelled now, and do not fail for it: the message is out."""

    async def write() -> None:
        for wait in RECEIPT_WAITS:
            with suppress(RedisError, OSError):
                return await receipts.record(accepted, receipt)
            await asyncio.sleep(wait)
        try:
            await receipts.record(accepted, receipt)
        except (RedisError, OSError):
            logger.exception("the message is sent, but its receipt could not be written: a repetition would send again")

    writing = asyncio.ensure_future(write())
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await writing
        raise


def _told(refused: Mapping[str, Reply], what: str) -> str:
    return f"{what}: {'; '.join(sorted({str(reply) for reply in refused.values()}))}"[:1000]
