"""The blockchain family: its functions, limits and retry policy, and what it opens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daemon.family import Exponential, FamilySettings
from handlers.blockchain.index import EventIndex
from handlers.blockchain.indexer import index_events
from handlers.blockchain.tasks import BlockchainService, Events, handle_event
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient
from handlers.integrations.packages import required
from handlers.integrations.rpc import networks

# It is loaded when the family starts, which takes a second.
required("web3")


async def open_blockchain(ctx: dict[Any, Any]) -> None:
    """Open the database and a client for the nodes; where there are nodes, load web3.

    Raises:
        ConfigurationError: tables are missing, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    if settings.rpc:
        # Now, and not in the middle of the first job.
        import handlers.blockchain.contracts  # noqa: F401
    database = await Database.open(settings)
    # The nodes' addresses are the operator's own.
    http = HttpClient.of(settings, guarded=False)
    chains = networks(settings.rpc, http, settings.blockchain.calls_per_second)
    ctx["blockchain"] = BlockchainService(settings.blockchain, database, http, EventIndex(database), chains, _contract)


def _contract(abis: Sequence[Any], address: str) -> Events:
    from handlers.blockchain.contracts import ContractEvents

    return ContractEvents(abis, address)


async def close_blockchain(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "blockchain" in ctx:
        await ctx["blockchain"].http.close()
        await ctx["blockchain"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/blockchain.md."""

    family = "blockchain"
    functions = (handle_event, index_events)
    max_jobs = 5
    max_tries = 5
    backoff = Exponential(base=3)
    job_timeout = 120
    priority = 3
    on_startup = open_blockchain
    on_shutdown = close_blockchain
