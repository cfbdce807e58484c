"""Events and secrets for tests of webhooks."""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Any

from handlers.webhooks.payloads import DeliverWebhook
from tests.handlers.receiver import Receiver


def new_secret(size: int = 32) -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(size)).decode()


OLD, NEW = new_secret(), new_secret()


def event(receiver: Receiver, number: int = 1, **fields: Any) -> DeliverWebhook:
    given = {"endpoint": f"{receiver.url}/in", "event": "order.paid", "payload": {"n": number}, "secret_ref": "shop"}
    return DeliverWebhook(**{**given, **fields})


class Silent(Receiver):
    """An endpoint that takes every connection and says nothing: ``open`` are those it has, ``ended`` those it had."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.ended = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            self.open, self.ended = self.open - 1, self.ended + 1
            writer.close()
