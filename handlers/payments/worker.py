"""The payments family: its functions, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient
from handlers.integrations.rpc import networks
from handlers.payments.attempts import Attempts
from handlers.payments.commissions import pay_commission
from handlers.payments.crypto import Chain
from handlers.payments.stripe import Stripe
from handlers.payments.tasks import PaymentService, Provider, retry_payment
from handlers.payments.yookassa import YooKassa


async def open_payments(ctx: dict[Any, Any]) -> None:
    """Open the database and a client for the providers that are set up.

    Raises:
        ConfigurationError: tables are missing, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    payments = settings.payments
    # The providers' addresses are the operator's own.
    http = HttpClient.of(settings, guarded=False)
    providers: dict[str, Provider] = {}
    if payments.stripe_key is not None:
        providers["stripe"] = Stripe(http, payments.stripe_url, payments.stripe_key.get_secret_value())
    if payments.yookassa_shop_id is not None and payments.yookassa_key is not None:
        key = payments.yookassa_key.get_secret_value()
        providers["yookassa"] = YooKassa(http, payments.yookassa_url, payments.yookassa_shop_id, key)
    chains = {name: Chain(network, payments.confirmations) for name, network in networks(settings.rpc, http).items()}
    database = await Database.open(settings)
    ctx["payments"] = PaymentService(payments, database, http, Attempts(database), providers, chains)


async def close_payments(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "payments" in ctx:
        await ctx["payments"].http.close()
        await ctx["payments"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/payments.md."""

    family = "payments"
    functions = (retry_payment, pay_commission)
    max_jobs = 3
    max_tries = 8
    backoff = Exponential(base=60, maximum=86_400)
    job_timeout = 60
    priority = 1
    on_startup = open_payments
    on_shutdown = close_payments
