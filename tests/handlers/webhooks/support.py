"""Events and secrets for tests of webhooks."""

from __future__ import annotations

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
