"""What the payments family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.payments.money import Amount, Currency, Rate, checked, units

__all__ = ["Commission", "PayCommission", "RetriedPayment", "RetryPayment"]

_ADDRESS = r"^0x[0-9a-fA-F]{40}$"
_HASH = r"^0x[0-9a-fA-F]{64}$"
Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class RetriedPayment(PayloadModel):
    """A payment that has been made.

    ``attempt`` is the number of the charge that made it, 0 where it had been made before we tried.
    """

    payment_id: str
    provider: str
    status: str
    attempt: int
    object_id: str | None = None
    paid_at: datetime


class RetryPayment(Payload, family="payments", returns=RetriedPayment):
    """Charge a failed payment again, or check that a transfer has arrived.

    Fields:
        payment_id: stripe: the PaymentIntent, ``pi_…``; yookassa: the payment that failed; crypto: an id of yours.
        amount, currency: yookassa and crypto; as text, ``"19.99"``.
        payment_method: stripe: of the customer, if not the one that failed; yookassa: the saved one.
        description: yookassa: for the customer.
        network_id, tx_hash, to: crypto: the chain (a name or number with an RPC URL), the transaction, who is paid.
        token, decimals: crypto: of an ERC-20 token its contract and its digits; none: the chain's own coin.
        sender: crypto: who has to have paid; none: anybody.
        not_before: crypto: when its block may have been made at the earliest; none: ever. Where an address receives for
            more than one payment, whoever is to pay could name the transfer of somebody else: give both.
    """

    payment_id: Id
    provider: Literal["stripe", "yookassa", "crypto"]
    amount: Amount | None = None
    currency: Currency | None = None
    payment_method: Id | None = None
    description: str | None = Field(None, max_length=128)
    network_id: Annotated[str, BeforeValidator(_text), Field(pattern=r"^[a-z0-9_-]{1,40}$")] | None = None
    tx_hash: str | None = Field(None, pattern=_HASH)
    to: str | None = Field(None, pattern=_ADDRESS)
    token: str | None = Field(None, pattern=_ADDRESS)
    decimals: int = Field(18, ge=0, le=36)
    sender: str | None = Field(None, pattern=_ADDRESS)
    not_before: AwareDatetime | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {
            "stripe": (),
            "yookassa": ("amount", "currency", "payment_method"),
            "crypto": ("amount", "network_id", "tx_hash", "to"),
        }[self.provider]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.provider} needs {' and '.join(missing)}")
        if self.provider == "stripe" and not re.fullmatch(r"pi_\w+", self.payment_id):
            raise ValueError("payment_id is Stripe's PaymentIntent, pi_...")
        if self.provider != "crypto" and self.amount is not None and self.currency is not None:
            checked(self.amount, self.currency)
        if self.provider == "crypto" and self.amount is not None:
            units(self.amount, self.decimals)
        return self

    def group_key(self) -> str | None:
        """Providers take turns; one that says to wait does not hold up the others."""
        return self.provider


class Commission(PayloadModel):
    """A commission that is in the books; ``existed``: it was before this job."""

    transaction: str
    commission: Decimal
    currency: str
    existed: bool


class PayCommission(Payload, family="payments", returns=Commission):
    """Credit a referrer with the commission on an order, once.

    Fields:
        referral_id: whose commission it is.
        order_id: of which order; an order pays each referral one commission.
        amount: of the order, as text.
        rate: the share, ``"0.1"``; default ``ARQD_PAYMENTS__COMMISSION_RATE``.
    """

    referral_id: Id
    order_id: Id
    amount: Amount
    currency: Currency
    rate: Rate | None = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        checked(self.amount, self.currency)
        return self
