"""``collect_mentions``: store what mentions an account, or matches a query, from where the last job ended."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select

from daemon.context import JobContext
from handlers.integrations.database import Database, insert
from handlers.integrations.texts import kept, scheme_of
from handlers.social.drivers import Mention, Page
from handlers.social.payloads import CollectedMentions, CollectMentions
from handlers.social.tables import CURSORS, MENTIONS
from handlers.social.tasks import SocialService


async def collect_mentions(ctx: JobContext, job: CollectMentions) -> CollectedMentions:
    """Store new mentions, each once; a job that runs again, or is cut off, goes on behind the last page.

    Raises:
        RetryAfter: the network says to wait; the account's jobs wait, and what was found is kept.
        PermanentError: the account is not set up, or the network refuses for good.
        HttpError: see `handlers.integrations.http`.
    """
    service: SocialService = ctx["social"]
    driver = service.driver(job.network, job.account_id)
    found = pages = 0
    async for page in driver.mentions(job.query, await _cursor(service.database, job), job.since):
        found += await _store(service.database, job, page)
        pages += 1
        await ctx.progress(0, f"{found} new on {pages} pages")
    return CollectedMentions(found=found)


async def _cursor(database: Database, job: CollectMentions) -> str | None:
    row = CURSORS.c
    mine = (row.network == job.network) & (row.account_id == job.account_id) & (row.query == (job.query or ""))
    async with database.read() as connection:
        cursor: str | None = (await connection.execute(select(row.cursor).where(mine))).scalar_one_or_none()
    return cursor


async def _store(database: Database, job: CollectMentions, page: Page) -> int:
    """Write a page and its cursor together, and give how many mentions were new."""
    now = datetime.now(UTC)
    place = {"network": job.network, "account_id": job.account_id, "query": job.query or ""}
    wanted = [each for each in page.mentions if job.since is None or each.at >= job.since]
    new = 0
    async with database.begin() as connection:
        for each in wanted:
            row = place | _values(each) | {"found_at": now}
            once = insert(connection, MENTIONS).values(row).on_conflict_do_nothing().returning(MENTIONS.c.id)
            new += (await connection.execute(once)).first() is not None
        if page.cursor is not None:
            moved = {"cursor": page.cursor, "updated_at": now}
            write = insert(connection, CURSORS).values(place | moved)
            keys = ["network", "account_id", "query"]
            await connection.execute(write.on_conflict_do_update(index_elements=keys, set_=moved))
    return new


def _values(each: Mention) -> dict[str, object]:
    # Another server says where it stands, and people click on it.
    url = each.url if each.url and scheme_of(each.url) in ("http", "https") else None
    texts = {"mention_id": each.id, "author": each.author, "text": each.text, "url": url}
    # Anybody can write what no database keeps: the page would be asked for again and again.
    return {name: text and kept(text) for name, text in texts.items()} | {"at": each.at}
