"""``retry_payment``: charge a failed payment again, so that no try, crash or second job can charge it twice.

1. How does its last attempt stand? One that is open is brought to its end first: looked up, or called again with the
   same key and body; past the life of its key it is only looked for.
2. A new attempt is made only after the provider has said that the payment has failed. Its row, with a new key and the
   body, is committed before the call.
3. What the provider says is written down, then told.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from daemon.context import JobContext
from daemon.errors import PermanentError, RetryAfter
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient, HttpTooLarge, HttpUnavailable
from handlers.integrations.rpc import network_missing
from handlers.payments.attempts import Attempt, Attempts, State
from handlers.payments.crypto import Chain
from handlers.payments.payloads import RetriedPayment, RetryPayment
from handlers.payments.settings import PaymentsSettings


class PaymentDeclined(PermanentError):
    """The provider refused the charge for good."""


class OutcomeUnknown(Exception):
    """Nobody knows yet whether the payment was charged; the next try finds out, with the same key."""


class Provider(Protocol):
    """A service that charges. Errors of its calls are those of `handlers.integrations.http`."""

    key_life: float
    #: Whether a payment can be looked up whose call has had no answer.
    looks_first: bool

    def body(self, job: RetryPayment, found: State) -> dict[str, Any]:
        """Give what is sent to charge it, which was found to have failed.

        Raises:
            PermanentError: the job lacks something.
        """

    async def look_up(self, job: RetryPayment, attempt: Attempt | None) -> State:
        """Ask how the payment stands."""

    async def charge(self, job: RetryPayment, attempt: Attempt) -> State:
        """Charge it with the attempt's key and body."""

    async def reconcile(self, job: RetryPayment, attempt: Attempt) -> State:
        """Ask how an attempt ended whose key is not kept any more."""


@dataclass(frozen=True, slots=True)
class PaymentService:
    """What the family opens at start and finds in its context as ``payments``."""

    settings: PaymentsSettings
    database: Database
    http: HttpClient
    attempts: Attempts
    providers: Mapping[str, Provider]
    chains: Mapping[str, Chain]


async def retry_payment(ctx: JobContext, job: RetryPayment) -> RetriedPayment:
    """Charge a payment again, or check a transfer; see the head of this module.

    A job that runs twice gives the same result twice.

    Raises:
        PaymentDeclined: the charge was refused. Sent back from the dead letters the job makes a new attempt.
        PermanentError: the provider is not set up, the customer must act, or a person must look.
        RetryAfter: it is pending; the job looks again later.
        OutcomeUnknown: the next try finds out.
    """
    service: PaymentService = ctx["payments"]
    if job.provider == "crypto":
        return await _check_transfer(ctx, service, job)
    provider = service.providers.get(job.provider)
    if provider is None:
        raise PermanentError(f"{job.provider} is not set up: ARQD_PAYMENTS__{job.provider.upper()}_…")
    last = await service.attempts.last(job.provider, job.payment_id)
    if last is not None and last.state == "succeeded":
        return _result(job, last.number, last.detail or "", last.object_id, last.closed_at)
    if last is not None and last.state == "open":
        found = await _outcome(provider, job, last)
        if found.kind != "failed" or last.object_id or last.age < provider.key_life:
            return await _settle(ctx, service, job, last, found)
        # Nobody knows of a charge it came to, and it cannot come to one any more: this is no answer to the job yet.
        await service.attempts.close(last, found)
    elif last is not None and last.job_id == ctx.job_id and not _was_told(ctx, last):
        # The worker died between writing this down and saying so.
        raise _declined(last.number, last.detail or "")
    return await _charge_anew(ctx, service, provider, job, last)


async def _charge_anew(
    ctx: JobContext, service: PaymentService, provider: Provider, job: RetryPayment, last: Attempt | None
) -> RetriedPayment:
    """Make an attempt, once the provider has said that the payment has failed."""
    found = await provider.look_up(job, last)
    if found.kind == "paid":
        # Somebody else was quicker, or the failure that was reported healed.
        await service.attempts.add(job.provider, job.payment_id, last, ctx.job_id, {}, done=found)
        return _result(job, 0, found.detail, found.object_id, None)
    if found.kind != "failed":
        raise _later(ctx, service, found)
    attempt = await service.attempts.add(job.provider, job.payment_id, last, ctx.job_id, provider.body(job, found))
    if attempt is None:
        raise OutcomeUnknown("another job makes an attempt at this payment now")
    return await _settle(ctx, service, job, attempt, await _charge(provider, job, attempt))


async def _outcome(provider: Provider, job: RetryPayment, attempt: Attempt) -> State:
    """Bring an open attempt to its end: it may have been called, or not."""
    if attempt.object_id:
        return await provider.look_up(job, attempt)
    if attempt.age >= provider.key_life:
        return await provider.reconcile(job, attempt)
    if provider.looks_first and (found := await provider.look_up(job, attempt)).kind != "failed":
        return found
    return await _charge(provider, job, attempt)


async def _charge(provider: Provider, job: RetryPayment, attempt: Attempt) -> State:
    try:
        return await provider.charge(job, attempt)
    except (HttpUnavailable, HttpTooLarge) as error:
        raise OutcomeUnknown(f"attempt {attempt.number}: {error}") from error


async def _settle(
    ctx: JobContext, service: PaymentService, job: RetryPayment, attempt: Attempt, state: State
) -> RetriedPayment:
    """Write down what the provider said of an attempt, then tell it."""
    if state.kind == "paid":
        await service.attempts.close(attempt, state)
        return _result(job, attempt.number, state.detail, state.object_id, datetime.now(UTC))
    if state.kind == "failed":
        await service.attempts.close(attempt, state)
        raise _declined(attempt.number, state.detail)
    if state.object_id:
        await service.attempts.note(attempt, state.object_id)
    raise _later(ctx, service, state, attempt)


def _later(ctx: JobContext, service: PaymentService, state: State, attempt: Attempt | None = None) -> Exception:
    """Give what makes the job look again later, or gives up what takes too long."""
    if state.kind == "customer":
        return PermanentError(f"the customer has to act ({state.detail}); retry the job when that is done")
    # A job sent back from the dead letters may be days old, and its attempt a moment.
    since = max(ctx.enqueue_time, attempt.opened_at) if attempt else ctx.enqueue_time
    waited = (datetime.now(UTC) - since).total_seconds()
    if waited > service.settings.pending_limit:
        return PermanentError(f"still {state.detail} after {waited / 3600:.0f} h: somebody has to look at this payment")
    if state.kind == "unknown" and state.wait is None:
        return OutcomeUnknown(state.detail)
    return RetryAfter(service.settings.poll if state.wait is None else state.wait, "job")


async def _check_transfer(ctx: JobContext, service: PaymentService, job: RetryPayment) -> RetriedPayment:
    """Nothing is charged: a transfer that has arrived is written down, for one payment only."""
    chain = service.chains.get(job.network_id or "")
    if chain is None:
        raise PermanentError(network_missing(str(job.network_id)))
    last = await service.attempts.last(job.provider, job.payment_id)
    if last is not None and last.state == "succeeded":
        return _result(job, last.number, last.detail or "", last.object_id, last.closed_at)
    found = await chain.look_up(ctx, job)
    if found.kind == "failed":
        raise PaymentDeclined(f"the transfer failed: {found.detail}")
    if found.kind != "paid":
        raise _later(ctx, service, found)
    assert found.object_id is not None
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, found.object_id))
    paid = await service.attempts.add(job.provider, job.payment_id, last, ctx.job_id, {}, key=key, done=found)
    # Where another job was quicker, the payment is paid by what that has found.
    paid = paid or await service.attempts.last(job.provider, job.payment_id)
    if paid is None:
        raise PermanentError("this transfer has paid another payment")
    return _result(job, paid.number, paid.detail or "", paid.object_id, paid.closed_at)


def _was_told(ctx: JobContext, attempt: Attempt) -> bool:
    """Whether a failed attempt has made a dead letter already: then somebody has sent the job back since."""
    told = ctx.previous_error
    if told is None or attempt.closed_at is None:
        return False
    # Where a try has ended since, it was sent back before that one.
    return bool(told["message"].startswith(f"attempt {attempt.number} ") or told["at"] > attempt.closed_at)


def _declined(number: int, detail: str) -> PaymentDeclined:
    return PaymentDeclined(f"attempt {number} was declined: {detail}")


def _result(
    job: RetryPayment, number: int, status: str, object_id: str | None, paid_at: datetime | None
) -> RetriedPayment:
    return RetriedPayment(
        payment_id=job.payment_id,
        provider=job.provider,
        status=status,
        attempt=number,
        object_id=object_id,
        paid_at=paid_at or datetime.now(UTC),
    )
