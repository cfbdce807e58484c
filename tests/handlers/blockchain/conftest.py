"""Fixtures of the blockchain family: a node, a contract on it, and what the family opens at start, on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.settings import load_settings
from handlers.blockchain.worker import close_blockchain, open_blockchain
from tests.anvil import TICKET_ALLOCATED, Anvil, Tickets
from tests.handlers.blockchain.support import CONFIRMATIONS, Chain, Gateway


@pytest.fixture
async def chain(anvil: Anvil, database_url: str) -> AsyncIterator[Chain]:
    tickets = Tickets.deploy(anvil)
    async with Gateway(anvil) as gateway:
        environ = {
            "ARQD_DATABASE_URL": database_url,
            "ARQD_HTTP__CONNECT_TIMEOUT": "60",
            "ARQD_RPC__31337": gateway.url,
            "ARQD_BLOCKCHAIN__EVENTS": TICKET_ALLOCATED,
            "ARQD_BLOCKCHAIN__CONFIRMATIONS": str(CONFIRMATIONS),
            "ARQD_BLOCKCHAIN__CALLS_PER_SECOND": "100000",
        }
        ctx: dict[str, Any] = {"settings": load_settings(environ)}
        await open_blockchain(ctx)
        yield Chain(anvil, tickets, gateway, ctx)
        await close_blockchain(ctx)
