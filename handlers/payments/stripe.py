"""Stripe: a PaymentIntent that failed is confirmed again.

The API answers a key that it knows with the first reply, a 500 included, as long as it keeps the key: at least a day.
So a payment whose outcome is unknown is looked at first, then confirmed with the same key and body.

A PaymentIntent whose charge failed has lost its payment method; its last error still tells which it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.errors import PermanentError
from handlers.integrations.http import HttpClient
from handlers.integrations.http_reply import mapping
from handlers.payments.attempts import Attempt, State
from handlers.payments.payloads import RetryPayment

#: What an operator checks where we are not known.
_KEY = "ARQD_PAYMENTS__STRIPE_KEY"
#: Statuses of a PaymentIntent.
_KINDS: dict[str, Any] = {
    "succeeded": "paid",
    "requires_capture": "paid",
    "processing": "pending",
    "requires_action": "customer",
    "requires_payment_method": "failed",
    "requires_confirmation": "failed",
    "canceled": "failed",
}


class Stripe:
    """Calls Stripe's API with one account's key."""

    looks_first = True
    #: For how long a key is certainly kept, seconds; an hour less than they promise.
    key_life = 23 * 3600.0

    def __init__(self, http: HttpClient, url: str, key: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}

    def body(self, job: RetryPayment, found: State) -> dict[str, Any]:
        """Give what is sent to charge it: with the job's method, or the one it was to be paid with before.

        Raises:
            PermanentError: there is none.
        """
        method = job.payment_method or found.method
        if method is None:
            raise PermanentError(
                f"the PaymentIntent has no payment method ({found.detail}): give the job a payment_method"
            )
        return {"off_session": "true", "payment_method": method}

    async def look_up(self, job: RetryPayment, attempt: Attempt | None) -> State:
        """Ask how the payment stands."""
        reply = await self._http.get(f"{self._url}/v1/payment_intents/{job.payment_id}", headers=self._headers)
        return _state(reply.checked("group", settings=_KEY).json(), job)

    async def charge(self, job: RetryPayment, attempt: Attempt) -> State:
        """Confirm it with the attempt's key and body."""
        reply = await self._http.post(
            f"{self._url}/v1/payment_intents/{job.payment_id}/confirm",
            headers=self._headers | {"idempotency-key": attempt.key},
            form=attempt.body,
        )
        if reply.ok:
            return _state(reply.json(), job)
        if reply.status >= 500:
            replayed = reply.headers.get("idempotent-replayed") == "true"
            # It would be said again until the key is forgotten.
            wait = max(60.0, self.key_life + 60 - attempt.age) if replayed else reply.retry_after
            return State("unknown", f"Stripe answers {reply.status}", wait=wait)
        if reply.status in (400, 402, 404) and (error := mapping(reply.fields.get("error"))):
            return _refused(error, job)
        # 409: the first call with this key is still under way.
        if reply.status == 409:
            return State("unknown", "the same call is under way", wait=reply.retry_after)
        # The account's key (401, 403), or something before Stripe, which tells nothing of the payment: it stays open.
        reply.checked("group", settings=_KEY)
        raise AssertionError("unreachable")

    async def reconcile(self, job: RetryPayment, attempt: Attempt) -> State:
        """Ask how an attempt ended whose key is not kept any more: a call of a day ago has ended."""
        return await self.look_up(job, attempt)


def _state(intent: Any, job: RetryPayment) -> State:
    intent = mapping(intent)
    if intent.get("id") != job.payment_id:
        return State("unknown", "Stripe answers with another payment")
    status = str(intent.get("status"))
    error = mapping(intent.get("last_payment_error"))
    why = error.get("decline_code") or error.get("code")
    kind = _KINDS.get(status, "unknown")
    told = f"{status}: {why}" if why and kind == "failed" else status
    method = intent.get("payment_method") or error.get("payment_method")
    # An id, or the whole object.
    return State(kind, told, intent["id"], method=method.get("id") if isinstance(method, dict) else method)


def _refused(error: Mapping[str, Any], job: RetryPayment) -> State:
    """Read an error: a declined card, or a call that cannot be."""
    why = str(error.get("decline_code") or error.get("code") or error.get("type") or "refused")
    intent = error.get("payment_intent")
    if intent:
        found = _state(intent, job)
        # What "cannot be confirmed" for it has been paid tells of no failure.
        return found if found.kind != "failed" else State("failed", why, found.object_id)
    if error.get("type") == "idempotency_error":
        raise PermanentError("Stripe has this key with another body: somebody else uses it; look at the attempt")
    return State("failed", why)
