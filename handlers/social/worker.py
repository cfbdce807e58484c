"""The social family: its functions, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.errors import ConfigurationError
from daemon.family import Exponential, FamilySettings
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient
from handlers.integrations.object_store.opening import open_store
from handlers.integrations.sources import Sources
from handlers.social.drivers import load_drivers
from handlers.social.mentions import collect_mentions
from handlers.social.posts import Posts
from handlers.social.tasks import SocialService, publish_post


async def open_social(ctx: dict[Any, Any]) -> None:
    """Open the database, the accounts and what media come from.

    Raises:
        ConfigurationError: tables are missing, an account's network has no driver, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    social = settings.social
    makers = load_drivers(social.drivers)
    unknown = {account.network for account in social.accounts.values()} - makers.keys()
    if unknown:
        raise ConfigurationError(f"ARQD_SOCIAL__ACCOUNTS: no driver for {', '.join(sorted(unknown))}")
    # The networks' addresses are the operator's own, those of media are the jobs'.
    http, downloads = HttpClient.of(settings, guarded=False), HttpClient.of(settings)
    accounts = {name: makers[account.network](http, account) for name, account in social.accounts.items()}
    database = await Database.open(settings)
    store = open_store(settings)
    sources = Sources(downloads, store, social.source_dirs, "ARQD_SOCIAL__SOURCE_DIRS", None)
    posts = Posts(database)
    ctx["social"] = SocialService(social, database, http, downloads, store, sources, posts, accounts)


async def close_social(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "social" in ctx:
        service = ctx["social"]
        for opened in (service.http, service.downloads, service.store, service.database):
            await opened.close()


class WorkerSettings(FamilySettings):
    """See docs/families/social.md."""

    family = "social"
    functions = (publish_post, collect_mentions)
    max_jobs = 5
    max_tries = 5
    backoff = Exponential(base=5)
    job_timeout = 60
    priority = 3
    on_startup = open_social
    on_shutdown = close_social
