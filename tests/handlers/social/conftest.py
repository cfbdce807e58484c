"""Fixtures of the social family: networks on loopback, and what the family opens at start, on each database."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from daemon.payload import Payload
from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.social.mentions import collect_mentions
from handlers.social.payloads import CollectMentions, PublishPost
from handlers.social.tables import MENTIONS, POSTS
from handlers.social.tasks import SocialService, publish_post
from handlers.social.worker import WorkerSettings, close_social, open_social
from tests.handlers.social.networks import BlueskyServer, MastodonServer, NetworkServer

NETWORKS = ("mastodon", "bluesky")


@dataclass
class Square:
    """The family with both networks and its database."""

    servers: dict[str, NetworkServer]
    folder: Path
    ctx: dict[str, Any]

    @property
    def service(self) -> SocialService:
        service: SocialService = self.ctx["social"]
        return service

    def post(self, network: str, **fields: Any) -> PublishPost:
        return PublishPost.model_validate({"network": network, "account_id": network, "text": "Hello"} | fields)

    def collecting(self, network: str, **fields: Any) -> CollectMentions:
        return CollectMentions.model_validate({"network": network, "account_id": network} | fields)

    async def run(self, job: Payload, job_id: str = "job", **more: Any) -> HandlerRun:
        """Run one try of a job."""
        function = publish_post if isinstance(job, PublishPost) else collect_mentions
        return await run_handler(function, job, settings=WorkerSettings, ctx=self.ctx, job_id=job_id, **more)

    async def mentions(self) -> list[Any]:
        async with self.service.database.read() as connection:
            return list((await connection.execute(select(MENTIONS).order_by(MENTIONS.c.at))).all())

    async def age(self, hours: float, *columns: str) -> None:
        """Have posts been sent so long ago, and the networks forget what they then do."""
        earlier = timedelta(hours=hours)
        async with self.service.database.begin() as connection:
            for name in columns or ("sent_at",):
                moment = POSTS.c[name]
                for row in (await connection.execute(select(POSTS.c.key, moment).where(moment.is_not(None)))).all():
                    moved = update(POSTS).where(POSTS.c.key == row.key)
                    await connection.execute(moved.values({name: row[1] - earlier}))
        for server in self.servers.values():
            server.forget()


@pytest.fixture
async def square(database_url: str, tmp_path: Path) -> AsyncIterator[Square]:
    tokens = {network: secrets.token_hex(8) for network in NETWORKS}
    folder = tmp_path / "media"
    folder.mkdir()
    async with MastodonServer(tokens["mastodon"]) as mastodon, BlueskyServer(tokens["bluesky"]) as bluesky:
        servers: dict[str, NetworkServer] = {"mastodon": mastodon, "bluesky": bluesky}
        accounts = {
            name: {"network": name, "url": server.url, "token": tokens[name], "user": "acme.example"}
            for name, server in servers.items()
        }
        environ = {
            "ARQD_DATABASE_URL": database_url,
            "ARQD_HTTP__CONNECT_TIMEOUT": "60",
            "ARQD_VAR_DIR": str(tmp_path),
            "ARQD_SOCIAL__ACCOUNTS": json.dumps(accounts),
            "ARQD_SOCIAL__SOURCE_DIRS": str(folder),
        }
        ctx: dict[str, Any] = {"settings": load_settings(environ)}
        await open_social(ctx)
        yield Square(servers, folder, ctx)
        await close_social(ctx)
