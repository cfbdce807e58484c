"""A small server that speaks OneSignal's documented wire format for pushes, and misbehaves as told.

What it does with the next calls is a list of words: ``ok``; ``twice`` (the answer comes twice); ``429`` with a
Retry-After; ``400`` and ``403``; ``proxy-`` and a status, an answer that is none of the service's; ``500`` with
nothing done, ``500-done`` after it was; ``cut`` before and ``cut-done`` after acting, without an answer; ``garbage``
and ``garbage-done``: an answer that is none. An empty list means ``ok``.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from tests.handlers.receiver import Answer, Receiver, Request

WORDS = ("ok", "twice", "429", "400", "403", "500", "500-done", "cut", "cut-done", "garbage", "garbage-done")
NOT_SUBSCRIBED = "All included players are not subscribed"


class OneSignalServer(Receiver):
    """The service, with one app.

    Attributes:
        script: the words.
        sent: the pushes that were really made.
        unknown: subscription ids that it has never heard of; ``unsubscribed``: that it sends nothing to.
        kept: answers to messages that were made, by idempotency key.
    """

    def __init__(self, app_id: str, api_key: str) -> None:
        super().__init__()
        self.app_id, self.api_key = app_id, api_key
        self.script: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.unknown: set[str] = set()
        self.unsubscribed: set[str] = set()
        self.kept: dict[str, Answer] = {}

    def answer(self, request: Request) -> Answer:
        assert (request.method, request.path) == ("POST", "/notifications?c=push")
        word = self.script.pop(0) if self.script else "ok"
        asked = request.json()
        if request.headers["authorization"] != f"Key {self.api_key}" or asked["app_id"] != self.app_id or word == "403":
            return _answer(403, {"errors": ["Access denied.  Please include a valid API key"]})
        key = str(UUID(asked["idempotency_key"]))
        assert asked["headings"]["en"]
        assert asked["contents"]["en"]
        targeting = {"include_aliases", "include_subscription_ids", "included_segments", "filters"} & asked.keys()
        assert targeting == {"include_subscription_ids"}
        assert 0 < len(asked["include_subscription_ids"]) <= 2000
        if word.startswith("proxy-"):
            return Answer(int(word[6:]), b"<html>no</html>", {"content-type": "text/html"})
        if word == "429":
            return _answer(429, {"errors": ["API rate limit exceeded"]}, {"retry-after": "7"})
        if word == "400":
            return _answer(400, {"errors": ["Message Notifications must have English language content"]})
        if word == "500":
            return _answer(500, {"errors": ["Internal server error"]})
        if word in ("cut", "garbage"):
            return Answer(cut="before") if word == "cut" else Answer(body=b"<html>")
        answer = self.kept.get(key) or self._make(asked, key)
        if word == "500-done":
            return _answer(500, {"errors": ["Internal server error"]})
        if word == "garbage-done":
            return Answer(body=b"<html>")
        return Answer(answer.status, answer.body, cut="after" if word == "cut-done" else "", twice=word == "twice")

    def _make(self, asked: dict[str, Any], key: str) -> Answer:
        devices = asked["include_subscription_ids"]
        reached = [device for device in devices if device not in self.unknown | self.unsubscribed]
        invalid = [device for device in devices if device in self.unknown]
        if not reached:
            errors: Any = {"invalid_player_ids": invalid} if len(invalid) == len(devices) else [NOT_SUBSCRIBED]
            return _answer(200, {"id": "", "external_id": None, "errors": errors})
        self.sent.append({**asked, "reached": reached})
        made = {"id": f"message-{len(self.sent)}", "external_id": key}
        self.kept[key] = _answer(200, made | ({"errors": {"invalid_player_ids": invalid}} if invalid else {}))
        return self.kept[key]


def _answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})
