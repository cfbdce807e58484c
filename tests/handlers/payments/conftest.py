"""Fixtures of the payments family: providers on loopback, and what the family opens at start, on each database."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.settings import load_settings
from handlers.integrations.database import Database
from handlers.payments.worker import close_payments, open_payments
from tests.handlers.payments.providers import NodeServer, StripeServer, YooKassaServer
from tests.handlers.payments.support import Shop


@pytest.fixture
async def shop(database: Database, database_url: str) -> AsyncIterator[Shop]:
    keys = [secrets.token_hex(8) for _ in range(2)]
    authorization = "Basic " + base64.b64encode(f"shop:{keys[1]}".encode()).decode()
    stripe, yookassa, node = StripeServer(keys[0]), YooKassaServer(authorization), NodeServer()
    environ = {
        "ARQD_DATABASE_URL": database_url,
        "ARQD_HTTP__CONNECT_TIMEOUT": "60",
        "ARQD_PAYMENTS__STRIPE_KEY": keys[0],
        "ARQD_PAYMENTS__STRIPE_URL": await stripe.start(),
        "ARQD_PAYMENTS__YOOKASSA_SHOP_ID": "shop",
        "ARQD_PAYMENTS__YOOKASSA_KEY": keys[1],
        "ARQD_PAYMENTS__YOOKASSA_URL": await yookassa.start(),
        "ARQD_RPC__MAINNET": await node.start(),
    }
    ctx: dict[str, Any] = {"settings": load_settings(environ)}
    await open_payments(ctx)
    yield Shop(stripe, yookassa, node, environ, ctx)
    await close_payments(ctx)
    for server in (stripe, yookassa, node):
        await server.stop()
