"""Small servers that speak Mastodon's and Bluesky's documented wire formats, and misbehave as told.

``script`` says what happens to the next calls that publish: ``ok``; ``429``; ``500`` with nothing done, ``500-done``
after it was; ``cut`` before and ``cut-done`` after acting, without an answer. An empty list means ``ok``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any
from unicodedata import normalize
from urllib.parse import parse_qs, urlsplit

from tests.handlers.receiver import Answer, Receiver, Request


def told(body: Any, status: int = 200, **headers: str) -> Answer:
    """An answer with JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(body).encode(), {"content-type": "application/json", **named})


class NetworkServer(Receiver):
    """What both have: tokens, a script, posts by others that mention the account."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token
        self.script: list[str] = []
        self.posts: list[dict[str, Any]] = []
        self.mentions: list[dict[str, Any]] = []
        self.uploads: list[bytes] = []
        self.page = 40
        self._numbers = itertools.count(1000)

    def acted(self, act: Any) -> Answer:
        """Act, or not, and answer, or not, as the script says."""
        word = self.script.pop(0) if self.script else "ok"
        if word == "429":
            reset = datetime.now(UTC) + timedelta(seconds=30)
            return told({"error": "Too many requests"}, 429, **self.limits(reset))
        if word == "500":
            return told({"error": "oops"}, 500)
        if word == "cut":
            return Answer(cut="before")
        answer = act()
        if word == "500-done":
            return told({"error": "oops"}, 500)
        return Answer(cut="after") if word == "cut-done" else answer

    def limits(self, reset: datetime) -> dict[str, str]:
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError

    def mention(self, text: str, at: datetime | None = None) -> None:
        raise NotImplementedError


class MastodonServer(NetworkServer):
    """One account on a server. ``kept`` are idempotency keys; `forget` is what an hour does."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.kept: dict[str, dict[str, Any]] = {}
        self.converting = 0

    def forget(self) -> None:
        self.kept.clear()

    def limits(self, reset: datetime) -> dict[str, str]:
        return {"X_RateLimit_Reset": reset.isoformat().replace("+00:00", "Z")}

    def status(self, text: str, media: list[str], at: datetime | None = None, acct: str = "acme") -> dict[str, Any]:
        number = str(next(self._numbers))
        at = at or datetime.now(UTC)
        html = (
            "<p>"
            + re.sub(r"(https?://\S+)", r'<a href="\1"><span>\1</span></a>', escape(normalize("NFC", text)))
            + "</p>"
        )
        html = re.sub(
            r"@(\w+)@([\w.]+\w)", r'<span class="h-card"><a href="https://\2/@\1">@<span>\1</span></a></span>', html
        )
        return {
            "id": number,
            "created_at": at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "content": html.replace("\n\n", "</p><p>").replace("\n", "<br />"),
            "url": f"https://mastodon.example/@{acct}/{number}",
            "account": {"acct": acct},
            "media_attachments": [{"id": each} for each in media],
        }

    def mention(self, text: str, at: datetime | None = None) -> None:
        status = self.status(text, [], at, acct="ada@other.example")
        self.mentions.append({"id": str(next(self._numbers)), "type": "mention", "status": status})

    def answer(self, request: Request) -> Answer:
        if self.answers:
            return self.answers.pop(0)
        parts = urlsplit(request.path)
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return told({"error": "The access token is invalid"}, 401)
        path, query = parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}
        if (request.method, path) == ("POST", "/api/v1/statuses"):
            return self.acted(lambda: self._publish(request))
        if (request.method, path) == ("POST", "/api/v2/media"):
            assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
            self.uploads.append(request.body)
            return told({"id": str(len(self.uploads)), "url": None}, 202 if self.converting else 200)
        if path.startswith("/api/v1/media/"):
            self.converting -= 1
            return told({"id": path.rpartition("/")[2]}, 206 if self.converting else 200)
        if path == "/api/v1/accounts/verify_credentials":
            return told({"id": "7", "acct": "acme"})
        if path == "/api/v1/accounts/7/statuses":
            older = [each for each in reversed(self.posts) if int(each["id"]) < int(query.get("max_id", 10**9))]
            return told(older[: int(query["limit"])])
        if path == "/api/v1/notifications":
            assert query["types[]"] == "mention"
            return told(self._after(self.mentions, query))
        if path == "/api/v1/timelines/tag/tickets":
            return told(self._after([each["status"] for each in self.mentions], query))
        if path == "/api/v2/search":
            return told({"statuses": self._after([each["status"] for each in self.mentions], query)})
        return told({"error": "Record not found"}, 404)

    def _after(self, items: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        newer = [each for each in items if int(each["id"]) > int(query["min_id"])][: self.page]
        return newer[::-1]

    def _publish(self, request: Request) -> Answer:
        key, asked = request.headers["idempotency-key"], request.json()
        if key not in self.kept:
            self.kept[key] = self.status(asked["status"], asked["media_ids"])
            self.posts.append(self.kept[key])
        return told(self.kept[key])


class BlueskyServer(NetworkServer):
    """One account on a personal data server: records by key, sessions that end."""

    did = "did:plc:acme"

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.records: dict[str, dict[str, Any]] = {}
        self.sessions = 0

    def forget(self) -> None:
        """Records are not forgotten; sessions are."""
        self.sessions += 1

    def limits(self, reset: datetime) -> dict[str, str]:
        return {"ratelimit_reset": str(int(reset.timestamp()))}

    def mention(self, text: str, at: datetime | None = None) -> None:
        at = at or datetime.now(UTC)
        number = next(self._numbers)
        self.mentions.append(
            {
                "uri": f"at://did:plc:ada/app.bsky.feed.post/{number}",
                "author": {"did": "did:plc:ada", "handle": "ada.example"},
                "reason": "mention",
                "record": {"$type": "app.bsky.feed.post", "text": text},
                "indexedAt": at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            }
        )

    def answer(self, request: Request) -> Answer:
        if self.answers:
            return self.answers.pop(0)
        parts = urlsplit(request.path)
        name, query = parts.path.removeprefix("/xrpc/"), {k: v[0] for k, v in parse_qs(parts.query).items()}
        if name == "com.atproto.server.createSession":
            if request.json() != {"identifier": "acme.example", "password": self.token}:
                return told({"error": "AuthenticationRequired"}, 401)
            return told({"did": self.did, "handle": "acme.example", "accessJwt": f"jwt-{self.sessions}"})
        if request.headers.get("authorization") != f"Bearer jwt-{self.sessions}":
            return told({"error": "ExpiredToken", "message": "Token has expired"}, 400)
        if name == "com.atproto.repo.putRecord":
            return self.acted(lambda: self._put(request.json()))
        if name == "com.atproto.repo.uploadBlob":
            self.uploads.append(request.body)
            link = hashlib.sha256(request.body).hexdigest()
            kind = request.headers["content-type"]
            return told(
                {"blob": {"$type": "blob", "ref": {"$link": link}, "mimeType": kind, "size": len(request.body)}}
            )
        if name in ("app.bsky.notification.listNotifications", "app.bsky.feed.searchPosts"):
            start = int(query.get("cursor", 0))
            newest = sorted(self.mentions, key=lambda each: str(each["indexedAt"]), reverse=True)
            found = newest[start : start + self.page]
            more = {"cursor": str(start + self.page)} if start + self.page < len(newest) else {}
            return told({"notifications" if "notification" in name else "posts": found} | more)
        return told({"error": "MethodNotImplemented"}, 501)

    def _put(self, asked: dict[str, Any]) -> Answer:
        assert asked["repo"] == self.did
        assert asked["collection"] == "app.bsky.feed.post"
        assert re.fullmatch(r"[234567abcdefghij][234567a-z]{12}", asked["rkey"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", asked["record"]["createdAt"])
        if asked["rkey"] not in self.records:
            self.posts.append(asked["record"])
        self.records[asked["rkey"]] = asked["record"]
        return told({"uri": f"at://{self.did}/app.bsky.feed.post/{asked['rkey']}", "cid": "bafy"})
