"""Mastodon: a status with an Idempotency-Key, media, mentions by notification, tag or search."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from html import unescape
from typing import Any
from unicodedata import normalize

import httpx

from handlers.integrations.http import HttpClient, HttpError, HttpReply
from handlers.social.drivers import Mention, Page, Post, Published, driver, taken
from handlers.social.settings import AccountSettings

#: Media are converted; how often to look whether they are, and how long, seconds.
LOOK_EVERY, LOOK_FOR = 1.0, 40.0
_BREAK = re.compile(r"<br\s*/?>|</p>\s*<p[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
#: Who is mentioned stands in a text with their server, and in the HTML made of it without.
_MENTIONED = re.compile(r"(?<![\w/])@(\w[\w.-]*)@[\w.-]*\w")
#: What its clock may be off by.
CLOCKS = timedelta(minutes=2)
MOST = 40


@driver("mastodon")
class Mastodon:
    """One account on a server."""

    #: The server keeps a key for an hour.
    key_life: float | None = 50 * 60.0

    def __init__(self, http: HttpClient, account: AccountSettings) -> None:
        self._http = http
        self._api = f"{account.url}/api"
        self._headers = {"authorization": f"Bearer {account.token.get_secret_value()}"}

    async def upload(self, data: bytes, kind: str, alt: str) -> Any:
        """Upload a file, wait until it is converted, and give its id."""
        form = httpx.Request(
            "POST", "http://form/", data={"description": alt}, files={"file": (f"file.{kind[6:]}", data, kind)}
        )
        headers = self._headers | {"content-type": form.headers["content-type"]}
        reply = await self._http.post(f"{self._api}/v2/media", content=form.read(), headers=headers)
        number = str(taken(reply).json()["id"])
        looked = 0.0
        while reply.status in (202, 206):
            if looked >= LOOK_FOR:
                raise HttpError(f"{reply.host} is still converting a file")
            await asyncio.sleep(LOOK_EVERY)
            looked += LOOK_EVERY
            reply = taken(await self._http.get(f"{self._api}/v1/media/{number}", headers=self._headers))
        return number

    async def publish(self, post: Post) -> Published:
        """Publish a post."""
        status: dict[str, Any] = {"status": post.text, "media_ids": list(post.uploads)}
        if post.language is not None:
            status["language"] = post.language
        headers = self._headers | {"idempotency-key": post.key}
        reply = taken(await self._http.post(f"{self._api}/v1/statuses", json=status, headers=headers))
        return _published(reply.json())

    async def find(self, post: Post) -> Published | None:
        """Look for a post among the account's newest ones, by its words and its time."""
        me = taken(await self._http.get(f"{self._api}/v1/accounts/verify_credentials", headers=self._headers))
        url = f"{self._api}/v1/accounts/{me.json()['id']}/statuses"
        params = {"limit": str(MOST), "exclude_reblogs": "true"}
        while True:
            statuses = taken(await self._http.get(url, params=params, headers=self._headers)).json()
            for status in statuses:
                if datetime.fromisoformat(status["created_at"]) < post.opened_at - CLOCKS:
                    return None
                files = [str(each["id"]) for each in status.get("media_attachments") or ()]
                if _same(_plain(status["content"]), post.text) and files == list(post.uploads):
                    return _published(status)
            if not statuses:
                return None
            params["max_id"] = str(statuses[-1]["id"])

    async def mentions(self, query: str | None, cursor: str | None, since: datetime | None) -> AsyncIterator[Page]:
        """Give what is new, the oldest first."""
        behind = cursor or "0"
        while True:
            reply = taken(await self._page(query, behind))
            found = reply.json()
            items = found.get("statuses", []) if isinstance(found, dict) else found
            if not items:
                return
            newest = str(max((str(item["id"]) for item in items), key=lambda number: (len(number), number)))
            if newest == behind:
                # A search goes by seconds, and gives the last one again and again.
                return
            behind = newest
            statuses = [item["status"] if query is None else item for item in items if query or item.get("status")]
            yield Page([_mention(status) for status in statuses], behind)

    async def _page(self, query: str | None, behind: str) -> HttpReply:
        params = {"min_id": behind, "limit": str(MOST)}
        if query is None:
            url, params = f"{self._api}/v1/notifications", params | {"types[]": "mention"}
        elif re.fullmatch(r"#\w+", query):
            url = f"{self._api}/v1/timelines/tag/{query[1:]}"
        else:
            url, params = f"{self._api}/v2/search", params | {"q": query, "type": "statuses"}
        return await self._http.get(url, params=params, headers=self._headers)


def _published(status: Any) -> Published:
    return Published(str(status["id"]), status.get("url"))


def _mention(status: Any) -> Mention:
    return Mention(
        id=str(status["id"]),
        author=str(status["account"]["acct"]),
        text=_plain(status["content"]),
        url=status.get("url"),
        at=datetime.fromisoformat(status["created_at"]),
    )


def _plain(html: str) -> str:
    return unescape(_TAG.sub("", _BREAK.sub("\n", html)))


def _same(one: str, other: str) -> bool:
    """Whether a server may have made one of the other: it composes letters, and leaves out blanks and servers."""
    return _compared(one) == _compared(other)


def _compared(text: str) -> list[str]:
    return _MENTIONED.sub(r"@\1", normalize("NFC", text)).split()
