"""What an operator can set about payments. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from daemon.family import Seconds
from handlers.integrations.http_settings import BaseUrl
from handlers.payments.money import Rate


class PaymentsSettings(BaseModel):
    """Payments: the providers' accounts and how long to wait for them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    stripe_key: SecretStr | None = Field(None, description="Stripe's secret key, `sk_…` or `rk_…`")
    stripe_url: BaseUrl = Field("https://api.stripe.com", description="address of Stripe's API")
    yookassa_shop_id: str | None = Field(None, min_length=1, description="YooKassa's shop id")
    yookassa_key: SecretStr | None = Field(None, description="YooKassa's secret key")
    yookassa_url: BaseUrl = Field("https://api.yookassa.ru/v3", description="address of YooKassa's API")
    confirmations: int = Field(12, ge=1, le=10_000, description="blocks that make a transfer count, its own included")
    poll: Seconds = Field(30, ge=1, le=3600, description="wait between looks at a payment that is pending, seconds")
    pending_limit: Seconds = Field(
        259_200,
        gt=0,
        description="a payment still pending so long after its charge (without one: after its job was enqueued) is "
        "given up, seconds",
    )
    commission_rate: Rate = Field(Decimal("0.1"), description="share of an order that its referrer gets, `0.1`")
