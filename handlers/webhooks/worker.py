"""The webhooks family: its functions, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any, ClassVar

from daemon.family import Exponential, FamilySettings, crontab, func
from handlers.integrations.database import Database
from handlers.integrations.endpoint_names import ORDERED
from handlers.integrations.http import HttpClient
from handlers.integrations.modules import load_modules
from handlers.webhooks.endpoints import Endpoints
from handlers.webhooks.payloads import PruneWebhooks
from handlers.webhooks.stripe_events import StripeService, process_stripe_event
from handlers.webhooks.tasks import WebhookService, deliver_webhook, prune_webhooks
from handlers.webhooks.turns import Turns


async def open_webhooks(ctx: dict[Any, Any]) -> None:
    """Open the database and the connections, and load the handlers of Stripe's events.

    Raises:
        ConfigurationError: a module of handlers cannot be imported, or tables are missing.
    """
    settings = ctx["settings"]
    load_modules("ARQD_WEBHOOKS__STRIPE_HANDLERS", settings.webhooks.stripe_handlers)
    database = ctx["database"] = await Database.open(settings)
    http = ctx["http"] = HttpClient.of(settings)
    endpoints = Endpoints(database, settings.webhooks.disable_after)
    ctx["webhooks"] = WebhookService(settings.webhooks, http, endpoints, Turns(database))
    secrets = settings.webhooks.stripe_secrets
    ctx["stripe_events"] = StripeService(database, secrets.get_secret_value().split() if secrets else ())


async def close_webhooks(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    for name in ("http", "database"):
        if name in ctx:
            await ctx[name].close()


class WorkerSettings(FamilySettings):
    """See docs/families/webhooks.md."""

    family = "webhooks"
    functions = (
        deliver_webhook,
        func(process_stripe_event, backoff=Exponential(base=5, maximum=3600)),
        func(prune_webhooks, max_tries=1, timeout=300),
    )
    cron_jobs = (crontab("17 3 * * *", prune_webhooks, timezone="UTC", payload=PruneWebhooks()),)
    max_jobs = 10
    max_tries = 10
    backoff = Exponential(base=1, maximum=3600)
    job_timeout = 30
    priority = 3
    # A group is an endpoint (`DeliverWebhook.group_key`): one that hangs has half of a single process's slots, not all.
    group_limit = 5
    # Where events come in order.
    group_limits: ClassVar = {f"{ORDERED}*": 1}
    on_startup = open_webhooks
    on_shutdown = close_webhooks
