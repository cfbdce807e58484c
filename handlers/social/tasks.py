"""``publish_post``: a post at its time, once, whatever happens to its tries.

1. It is written down, with the key that the network recognises a repeat by.
2. Before its time the job comes back later.
3. Was it sent so long ago that the network may have forgotten its key, it is looked for.
4. Its files are uploaded, each one written down, and it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.context import JobContext
from daemon.errors import PermanentError, RetryAfter
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient
from handlers.integrations.object_store.store import ObjectStore
from handlers.integrations.sources import Sources
from handlers.social.drivers import Driver, Post
from handlers.social.payloads import PublishedPost, PublishPost
from handlers.social.posts import PostRow, Posts, digest_of
from handlers.social.settings import SocialSettings

#: How long a network surely keeps files that stand in no post, seconds. Mastodon removes them after a day.
FILES_LIFE = 12 * 3600.0


class OtherPost(PermanentError):
    """A post with this idempotency key says something else."""


@dataclass(frozen=True, slots=True)
class SocialService:
    """What the family opens at start and finds in its context as ``social``.

    Attributes:
        downloads: guarded, for media; ``http`` is for the networks.
    """

    settings: SocialSettings
    database: Database
    http: HttpClient
    downloads: HttpClient
    store: ObjectStore
    sources: Sources
    posts: Posts
    accounts: Mapping[str, Driver]

    def driver(self, network: str, account_id: str) -> Driver:
        """Give an account.

        Raises:
            PermanentError: it is not set up, or on another network.
        """
        account = self.settings.accounts.get(account_id)
        if account is None or account.network != network:
            raise PermanentError(f"there is no account of that name on {network}: ARQD_SOCIAL__ACCOUNTS")
        return self.accounts[account_id]


async def publish_post(ctx: JobContext, job: PublishPost) -> PublishedPost:
    """Publish a post; a job that runs twice gives the same result twice.

    Raises:
        RetryAfter: its time has not come, or the network says to wait; no try is counted.
        OtherPost, PermanentError: the key is another post's, the account is not set up, the network refuses for good.
        HttpError: see `handlers.integrations.http`; the next try sends the same post with the same key.
    """
    service: SocialService = ctx["social"]
    driver = service.driver(job.network, job.account_id)
    if job.publish_at is not None and (early := (job.publish_at - datetime.now(UTC)).total_seconds()) > 0:
        raise RetryAfter(early, "job")
    row = await service.posts.open(job, ctx.job_id)
    if row.digest != digest_of(job):
        raise OtherPost
    existed = row.published_at is not None
    if not existed:
        row = await _look_back(service, driver, job, row)
    if row.published_at is None:
        row = await service.posts.send(await _upload(ctx, service, driver, job, row))
        if len(row.uploads) < len(job.media):
            # Another try at the same time uploads them anew.
            raise RetryAfter(1, "job")
        row = await service.posts.published(row, await driver.publish(_post(job, row)))
    assert row.remote_id is not None
    assert row.published_at is not None
    return PublishedPost(
        network=job.network,
        account_id=job.account_id,
        id=row.remote_id,
        url=row.url,
        published_at=row.published_at,
        existed=existed,
    )


async def _look_back(service: SocialService, driver: Driver, job: PublishPost, row: PostRow) -> PostRow:
    """See what is left of earlier tries: the post itself, a key the network still knows, files it still has."""
    if row.sent_at is not None and driver.key_life is not None:
        if _seconds_since(row.sent_at) <= driver.key_life:
            return row
        found = await driver.find(_post(job, row))
        return await (service.posts.renew(row) if found is None else service.posts.published(row, found))
    if _seconds_since(row.opened_at) > FILES_LIFE:
        return await service.posts.forget_files(row)
    return row


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()


async def _upload(ctx: JobContext, service: SocialService, driver: Driver, job: PublishPost, row: PostRow) -> PostRow:
    """Upload the files that are not there yet."""
    for number, media in enumerate(job.media):
        if number < len(row.uploads):
            continue
        source = {"url": media.url, "path": media.path, "key": media.key}
        async with service.sources.opened(int(service.settings.max_media), ctx.remaining, **source) as file:
            data = file.read()
        given = await driver.upload(data, media.type, media.alt)
        row = await service.posts.uploaded(row, [*row.uploads, given])
        await ctx.progress(100 * (number + 1) / (len(job.media) + 1), f"file {number + 1} of {len(job.media)}")
    return row


def _post(job: PublishPost, row: PostRow) -> Post:
    return Post(row.sent_key, job.text, job.language, row.opened_at, row.uploads)
