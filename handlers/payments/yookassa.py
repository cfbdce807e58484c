"""YooKassa: a payment that was canceled is made again with the customer's saved payment method.

Each payment is an object of its own, so what keeps from charging twice is the key alone. A 500 means that the outcome
is unknown: the same call with the same key tells. When the key is forgotten (24 hours), the payments since then are
looked through.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from handlers.integrations.http import HttpClient
from handlers.integrations.http_reply import LONGEST_WAIT, mapping
from handlers.payments.attempts import Attempt, State
from handlers.payments.money import checked
from handlers.payments.payloads import RetryPayment

_KINDS: dict[str, Any] = {
    "succeeded": "paid",
    "waiting_for_capture": "paid",
    "pending": "pending",
    "canceled": "failed",
}
#: What an operator checks where we are not known.
_KEY = "ARQD_PAYMENTS__YOOKASSA_SHOP_ID and ARQD_PAYMENTS__YOOKASSA_KEY"
#: Where a payment says which attempt made it.
MARK = "arqd_attempt"


class YooKassa:
    """Calls YooKassa's API as one shop."""

    #: Without an answer there is no object to ask for.
    looks_first = False
    #: For how long a key is certainly kept, seconds; an hour less than they promise.
    key_life = 23 * 3600.0

    def __init__(self, http: HttpClient, url: str, shop_id: str, key: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"authorization": f"Basic {b64encode(f'{shop_id}:{key}'.encode()).decode()}"}

    def body(self, job: RetryPayment, found: State) -> dict[str, Any]:
        """Give what is sent to charge it."""
        assert job.amount is not None
        assert job.currency is not None
        description = {"description": job.description} if job.description else {}
        return {
            "amount": {"value": f"{checked(job.amount, job.currency):f}", "currency": job.currency},
            "capture": True,
            "payment_method_id": job.payment_method,
            "metadata": {"payment_id": job.payment_id},
            **description,
        }

    async def look_up(self, job: RetryPayment, attempt: Attempt | None) -> State:
        """Ask how the payment stands that the last attempt made, or the one that failed first."""
        made = attempt.object_id if attempt and attempt.object_id else job.payment_id
        reply = await self._http.get(f"{self._url}/payments/{quote(made, safe='')}", headers=self._headers)
        found = mapping(reply.checked("group", settings=_KEY).json())
        if found.get("id") != made:
            return State("unknown", "YooKassa answers with another payment")
        return _state(found)

    async def charge(self, job: RetryPayment, attempt: Attempt) -> State:
        """Make the payment with the attempt's key and body."""
        metadata = attempt.body["metadata"] | {MARK: attempt.key}
        reply = await self._http.post(
            f"{self._url}/payments",
            headers=self._headers | {"idempotence-key": attempt.key},
            json=attempt.body | {"metadata": metadata},
        )
        if reply.status == 202:
            # It is still at it; wait is in milliseconds.
            said = reply.fields.get("retry_after")
            wait = _seconds(said) if isinstance(said, int | Decimal) else None
            return State("unknown", "YooKassa is at it", wait=wait)
        if reply.ok:
            made = mapping(reply.json())
            if mapping(made.get("metadata")).get(MARK) != attempt.key:
                return State("unknown", "YooKassa answers with another payment")
            return _state(made)
        if reply.status >= 500:
            return State("unknown", f"YooKassa answers {reply.status}", wait=reply.retry_after)
        if reply.status in (400, 404) and (code := reply.fields.get("code")):
            return State("failed", str(code))
        # Also one that is none of YooKassa's, and tells nothing of the payment: the attempt stays open.
        reply.checked("group", settings=_KEY)
        raise AssertionError("unreachable")

    async def reconcile(self, job: RetryPayment, attempt: Attempt) -> State:
        """Look for the attempt among the payments made since its key was."""
        since = (attempt.opened_at - timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        until = (attempt.opened_at + timedelta(seconds=self.key_life, hours=2)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        params = {"created_at.gte": since, "created_at.lte": until, "limit": "100"}
        while True:
            reply = await self._http.get(f"{self._url}/payments", params=params, headers=self._headers)
            page = mapping(reply.checked("group", settings=_KEY).json())
            for found in page.get("items", []):
                if mapping(found.get("metadata")).get(MARK) == attempt.key:
                    return _state(found)
            if not page.get("next_cursor"):
                # The whole list has been seen: the call never arrived.
                return State("failed", "it never reached YooKassa")
            params["cursor"] = str(page["next_cursor"])


def _seconds(milliseconds: int | Decimal) -> float:
    return float(min(max(Decimal(milliseconds) / 1000, Decimal(1)), Decimal(LONGEST_WAIT)))


def _state(payment: Any) -> State:
    status = str(payment.get("status"))
    why = mapping(payment.get("cancellation_details")).get("reason")
    kind = _KINDS.get(status, "unknown")
    return State(kind, f"{status}: {why}" if why else status, payment.get("id"))
