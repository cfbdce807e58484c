"""Bluesky: a record with a key of its own, which writing again does not repeat; blobs; mentions and search."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from handlers.integrations.http import HttpClient, HttpError, HttpReply
from handlers.social.drivers import Mention, Page, Post, Published, driver, taken
from handlers.social.settings import AccountSettings

POSTS = "app.bsky.feed.post"
#: Digits of a record's key, in order.
_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
_LINK = re.compile(r"https?://[^\s<>\"]+[^\s<>\".,;:!?')\]]")
_MOST = "100"


@driver("bluesky")
class Bluesky:
    """One account on a personal data server."""

    key_life: float | None = None

    def __init__(self, http: HttpClient, account: AccountSettings) -> None:
        self._http = http
        self._account = account
        self._session: dict[str, Any] | None = None

    async def upload(self, data: bytes, kind: str, alt: str) -> Any:
        """Upload a file, and give its blob with its description."""
        reply = await self._call("com.atproto.repo.uploadBlob", content=data, headers={"content-type": kind})
        return {"alt": alt, "image": reply.json()["blob"]}

    async def publish(self, post: Post) -> Published:
        """Write the post's record."""
        record: dict[str, Any] = {"$type": POSTS, "text": post.text, "createdAt": _written(post.opened_at)}
        if post.language is not None:
            record["langs"] = [post.language]
        if facets := _links(post.text):
            record["facets"] = facets
        if post.uploads:
            record["embed"] = {"$type": "app.bsky.embed.images", "images": list(post.uploads)}
        key = _record_key(post)
        fields = {"repo": (await self._login())["did"], "collection": POSTS, "rkey": key, "record": record}
        uri = str((await self._call("com.atproto.repo.putRecord", json=fields)).json()["uri"])
        return Published(uri, _web(uri, str(self._account.user)))

    async def find(self, post: Post) -> Published | None:
        """Never needed: the key is the record's for ever."""
        return None

    async def mentions(self, query: str | None, cursor: str | None, since: datetime | None) -> AsyncIterator[Page]:
        """Give what is new, the newest first: only behind the last page is it known where to go on."""
        # Else the first time would go back to the beginning of the network, and come to no end in its time.
        behind = max(cursor or "", "" if since is None else _written(since))
        newest, params = cursor or "", {"limit": _MOST}
        if query is None:
            name, params["reasons"] = "app.bsky.notification.listNotifications", "mention"
        else:
            name, params = "app.bsky.feed.searchPosts", params | {"q": query, "sort": "latest"}
        while True:
            found = (await self._call(name, params=params)).json()
            items = found.get("notifications", []) if query is None else found.get("posts", [])
            # One of the same moment may have come later.
            new = [item for item in items if item["indexedAt"] >= behind]
            newest = max([newest, *(item["indexedAt"] for item in new)])
            last = len(new) < len(items) or not found.get("cursor") or not items
            yield Page([_mention(item) for item in new], newest if last and newest else None)
            if last:
                return
            params["cursor"] = str(found["cursor"])

    async def _login(self) -> dict[str, Any]:
        if self._session is None:
            who = {"identifier": self._account.user, "password": self._account.token.get_secret_value()}
            reply = await self._http.post(f"{self._account.url}/xrpc/com.atproto.server.createSession", json=who)
            self._session = taken(reply).json()
        return self._session

    async def _call(self, name: str, *, headers: Mapping[str, str] | None = None, **request: Any) -> HttpReply:
        """Call a method; a session that has ended is begun anew, once."""
        for again in (True, False):
            token = (await self._login())["accessJwt"]
            reply = await self._http.request(
                "GET" if "params" in request else "POST",
                f"{self._account.url}/xrpc/{name}",
                headers={**(headers or {}), "authorization": f"Bearer {token}"},
                **request,
            )
            if not (again and _expired(reply)):
                break
            self._session = None
        return taken(reply)


def _expired(reply: HttpReply) -> bool:
    if reply.status not in (400, 401):
        return False
    try:
        return reply.json().get("error") in ("ExpiredToken", "InvalidToken", "AuthMissing")
    except (HttpError, AttributeError):
        return reply.status == 401


def _record_key(post: Post) -> str:
    """Give the record's key: the time in microseconds and ten bits that tell posts of one moment apart."""
    since = post.opened_at - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    number = (microseconds << 10 | int.from_bytes(hashlib.sha256(post.key.encode()).digest()[:2]) & 0x3FF) & (2**63 - 1)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(60, -1, -5))


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _links(text: str) -> list[dict[str, Any]]:
    """Give the places of links, in bytes: without them they are not links."""
    found = []
    for match in _LINK.finditer(text):
        start = len(text[: match.start()].encode())
        index = {"byteStart": start, "byteEnd": start + len(match[0].encode())}
        found.append({"index": index, "features": [{"$type": "app.bsky.richtext.facet#link", "uri": match[0]}]})
    return found


def _web(uri: str, handle: str) -> str:
    return f"https://bsky.app/profile/{handle}/post/{uri.rpartition('/')[2]}"


def _mention(item: Any) -> Mention:
    author, uri = str(item["author"]["handle"]), str(item["uri"])
    at = datetime.fromisoformat(item["indexedAt"])
    return Mention(uri, author, str(item["record"].get("text", "")), _web(uri, author), at)
