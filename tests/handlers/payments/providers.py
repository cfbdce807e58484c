"""Small servers that speak Stripe's, YooKassa's and a chain node's documented wire format, and misbehave as told.

What a server does with the next calls that charge is a list of words:

``ok``; ``declined``; ``pending`` (it ends well when it is looked at again); ``429`` with a Retry-After, nothing done;
``500`` with nothing done, ``500-done`` after it was; ``cut`` before and ``cut-done`` after acting, without an answer;
``twice`` (the answer comes twice); ``409``, the same call is under way (Stripe), or ``202`` (YooKassa). An empty list
means ``ok``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Status, body (JSON, or bytes as they are) and headers.
Answer = tuple[int, Any, dict[str, str]]


class Cut(Exception):
    """The connection ends without an answer."""


class WebServer:
    """A server on loopback; a subclass answers."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Start it, and give its URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                method, target, _ = first.split(" ")
                self.calls.append((method, target))
                twice = bool(self.script) and self.script[0] == "twice" and method == "POST"
                status, answer, more = self.answer(method, target, headers, body.decode())
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                told = {"content-type": "application/json", "content-length": str(len(data)), **more}
                lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in told.items())]
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
                if twice:
                    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
                await writer.drain()
        except (Cut, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Answer:
        raise NotImplementedError

    def next_word(self) -> str:
        return self.script.pop(0) if self.script else "ok"


def _error(kind: str, **more: Any) -> dict[str, Any]:
    return {"error": {"type": kind, **more}}


class StripeServer(WebServer):
    """PaymentIntents, and confirming one: the first answer to a key is given again, a 500 included.

    ``charges`` counts the money taken of each intent. An intent that has been charged refuses another confirmation, as
    Stripe does, unless ``careless``: then a second key charges again, so that only the caller's care is left.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self.careless = True
        self.intents: dict[str, dict[str, Any]] = {}
        self.charges: Counter[str] = Counter()
        self.kept: dict[str, tuple[str, Answer]] = {}

    def intent(self, name: str, status: str = "requires_payment_method", method: str | None = "pm_first") -> None:
        """Have an intent; one whose payment failed has no method any more, only its error tells which it was."""
        self.intents[name] = intent = {"id": name, "object": "payment_intent", "status": status}
        intent |= {"payment_method": None, "last_payment_error": None}
        if status == "requires_payment_method" and method:
            intent["last_payment_error"] = self._declined(method)
        else:
            intent["payment_method"] = method

    @staticmethod
    def _declined(method: str) -> dict[str, Any]:
        of = {"payment_method": {"id": method, "object": "payment_method"}}
        return {"code": "card_declined", "decline_code": "insufficient_funds", **of}

    def answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Answer:
        if headers.get("authorization") != f"Bearer {self._key}":
            return 401, _error("invalid_request_error", message="Invalid API Key provided"), {}
        name, *action = urlsplit(target).path.removeprefix("/v1/payment_intents/").split("/")
        intent = self.intents.get(name)
        if intent is None:
            return 404, _error("invalid_request_error", code="resource_missing"), {}
        if method == "GET":
            if intent["status"] == "processing":
                # It ends while nobody looks.
                seen = dict(intent)
                self._charge(intent)
                return 200, seen, {}
            return 200, intent, {}
        assert action == ["confirm"]
        return self._confirm(name, intent, headers["idempotency-key"], body)

    def _confirm(self, name: str, intent: dict[str, Any], key: str, body: str) -> Answer:
        assert len(key) <= 255
        form = parse_qs(body)
        assert form["off_session"] == ["true"]
        if key in self.kept:
            first, answer = self.kept[key]
            if first != body:
                return 400, _error("idempotency_error"), {}
            self.next_word()
            return answer[0], answer[1], answer[2] | {"idempotent-replayed": "true"}
        word = self.next_word()
        if word == "429":
            return 429, _error("rate_limit_error"), {"retry-after": "7"}
        if word == "409":
            return 409, _error("idempotency_error", code="idempotency_key_in_use"), {}
        if word == "cut":
            raise Cut
        if word == "500":
            answer: Answer = 500, _error("api_error"), {}
        elif not (method := form.get("payment_method", [intent["payment_method"]])[0]):
            error = _error("invalid_request_error", code="payment_intent_unexpected_state", payment_intent=dict(intent))
            answer = 400, error, {}
        elif word == "declined":
            intent |= {"status": "requires_payment_method", "payment_method": None}
            intent["last_payment_error"] = self._declined(method)
            error = _error("card_error", code="card_declined", decline_code="insufficient_funds", payment_intent=intent)
            answer = 402, json.loads(json.dumps(error)), {}
        elif intent["status"] == "succeeded" and not self.careless:
            error = _error("invalid_request_error", code="payment_intent_unexpected_state", payment_intent=dict(intent))
            answer = 400, error, {}
        elif word == "pending":
            intent["status"] = "processing"
            answer = 200, dict(intent), {}
        else:
            self._charge(intent)
            answer = (500, _error("api_error"), {}) if word == "500-done" else (200, dict(intent), {})
        self.kept[key] = body, answer
        if word == "cut-done":
            raise Cut
        return answer

    def _charge(self, intent: dict[str, Any]) -> None:
        intent["status"] = "succeeded"
        self.charges[intent["id"]] += 1


class YooKassaServer(WebServer):
    """Payments, made with a key: each new key makes, and may charge, another one."""

    def __init__(self, authorization: str) -> None:
        super().__init__()
        self._authorization = authorization
        self.payments: dict[str, dict[str, Any]] = {}
        self.charges: Counter[str] = Counter()
        self.kept: dict[str, tuple[str, str]] = {}
        self._numbers = itertools.count(1)

    def payment(self, name: str, status: str = "canceled") -> None:
        self.payments[name] = {"id": name, "status": status, "metadata": {}}

    def answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Answer:
        if headers.get("authorization") != self._authorization:
            return 401, {"type": "error", "code": "invalid_credentials"}, {}
        path = urlsplit(target)
        if method == "GET" and path.path == "/payments":
            return self._page(parse_qs(path.query))
        if method == "GET":
            found = self.payments.get(path.path.removeprefix("/payments/"))
            if found is None:
                return 404, {"type": "error", "code": "not_found"}, {}
            seen = dict(found)
            if found["status"] == "pending":
                self._charge(found)
            return 200, seen, {}
        return self._make(headers["idempotence-key"], body)

    def _page(self, query: dict[str, list[str]]) -> Answer:
        assert {"created_at.gte", "created_at.lte", "limit"} <= query.keys()
        items = list(self.payments.values())
        first = int(query.get("cursor", ["0"])[0])
        page = {"type": "list", "items": items[first : first + 2]}
        return 200, page | ({"next_cursor": str(first + 2)} if first + 2 < len(items) else {}), {}

    def _make(self, key: str, body: str) -> Answer:
        assert len(key) <= 64
        if key in self.kept:
            self.next_word()
            first, name = self.kept[key]
            if first != body:
                return 400, {"type": "error", "code": "invalid_request"}, {}
            return 200, dict(self.payments[name]), {}
        word = self.next_word()
        if word == "429":
            return 429, {"type": "error", "code": "too_many_requests"}, {"retry-after": "7"}
        if word == "202":
            return 202, {"type": "processing", "retry_after": 1800}, {}
        if word == "cut":
            raise Cut
        if word == "500":
            return 500, {"type": "error", "code": "internal_server_error"}, {}
        asked = json.loads(body)
        assert set(asked) >= {"amount", "capture", "payment_method_id", "metadata"}
        name = f"made-{next(self._numbers)}"
        made = self.payments[name] = {"id": name, "status": "pending", "amount": asked["amount"]}
        made["metadata"] = asked["metadata"]
        if word == "declined":
            made |= {"status": "canceled", "cancellation_details": {"party": "bank", "reason": "insufficient_funds"}}
        elif word != "pending":
            self._charge(made)
        self.kept[key] = body, name
        if word == "500-done":
            return 500, {"type": "error", "code": "internal_server_error"}, {}
        if word == "cut-done":
            raise Cut
        return 200, dict(made), {}

    def _charge(self, payment: dict[str, Any]) -> None:
        payment["status"] = "succeeded"
        self.charges[payment["metadata"]["payment_id"]] += 1


class NodeServer(WebServer):
    """A chain's node, as far as receipts go. ``height`` is the last block's number; a method may be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.height = 100
        self.receipts: dict[str, dict[str, Any]] = {}
        self.transactions: dict[str, dict[str, Any]] = {}
        self.blocks: dict[int, str] = {}

    def transfer(self, tx: str, to: str, value: int, *, token: str | None = None, block: int = 90) -> None:
        self.blocks[block] = f"0x{block:064x}"
        self.transactions[tx] = {"hash": tx, "to": token or to, "value": hex(0 if token else value)}
        self.transactions[tx] |= {"from": "0x" + "99" * 20, "nonce": "0x0"}
        topic = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
        log = {"address": token, "topics": [topic, "0x" + "0" * 64, "0x" + "0" * 24 + to[2:]], "data": hex(value)}
        self.receipts[tx] = {
            "blockNumber": hex(block),
            "blockHash": self.blocks[block],
            "status": "0x1",
            "logs": [log] if token else [],
        }

    def answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Answer:
        asked = json.loads(body)
        assert asked["jsonrpc"] == "2.0"
        params = asked["params"]
        answers: dict[str, Any] = {
            "eth_chainId": lambda: "0x1",
            "eth_blockNumber": lambda: hex(self.height),
            "eth_getTransactionReceipt": lambda: self.receipts.get(params[0]),
            "eth_getTransactionCount": lambda: "0x0",
            "eth_getTransactionByHash": lambda: self.transactions.get(params[0]),
            "eth_getBlockByNumber": lambda: {"hash": self.blocks[int(params[0], 16)]},
        }
        if self.script and self.next_word() == "error":
            return 200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": "limit exceeded"}}, {}
        return 200, {"jsonrpc": "2.0", "id": 1, "result": answers[asked["method"]]()}, {}
