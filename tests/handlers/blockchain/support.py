"""The blockchain family on a node and a database, and a node that misbehaves as told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import select

from daemon.payload import Payload
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.blockchain.indexer import index_events
from handlers.blockchain.payloads import HandleEvent, IndexEvents
from handlers.blockchain.tables import EVENTS
from handlers.blockchain.tasks import BlockchainService, handle_event
from handlers.blockchain.worker import WorkerSettings
from tests.anvil import OPERATOR, Anvil, Tickets
from tests.handlers.receiver import Answer, Receiver, Request

#: In tests an event is final with so many.
CONFIRMATIONS = 3


class Gateway(Receiver):
    """Stands before a node, as providers do: refuses ranges, or calls, as it is told.

    Args:
        most: blocks a call may ask for; None: any number.
    """

    def __init__(self, node: Anvil, most: int | None = None) -> None:
        super().__init__()
        self.node = node
        self.most = most
        self.calls: list[tuple[str, Any]] = []
        self.ranges: list[int] = []
        self.refused = 0
        #: A method that it answers with an error.
        self.refuses = ""
        #: Called with each call's method before it is passed on.
        self.before: Callable[[str], None] = lambda method: None
        self._client = httpx.Client(timeout=60, trust_env=False)

    def answer(self, request: Request) -> Answer:
        if self.answers:
            return self.answers.pop(0)
        asked = request.json()
        method, params = asked["method"], asked["params"]
        self.calls.append((method, params))
        self.before(method)
        if method == self.refuses:
            error = {"code": -32000, "message": "missing trie node"}
            return Answer(body=json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}).encode())
        if method == "eth_getLogs":
            length = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            if self.most is not None and length > self.most:
                self.refused += 1
                error = {"code": -32005, "message": f"block range is larger than {self.most}"}
                return Answer(body=json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}).encode())
            self.ranges.append(length)
        try:
            reply = self._client.post(self.node.url, content=request.body, headers={"content-type": "application/json"})
        except httpx.TransportError:
            return Answer(cut="before")
        return Answer(reply.status_code, reply.content)


@dataclass
class Chain:
    """The family with a node, a contract and a database."""

    node: Anvil
    tickets: Tickets
    gateway: Gateway
    ctx: dict[str, Any]

    @property
    def service(self) -> BlockchainService:
        service: BlockchainService = self.ctx["blockchain"]
        return service

    def event(self, tx_hash: str, **more: Any) -> HandleEvent:
        """A job about an event of a transaction."""
        fields = {"contract_address": self.tickets.address, "event_name": "TicketAllocated", "network_id": "31337"}
        return HandleEvent.model_validate(fields | {"transaction_hash": tx_hash} | more)

    def indexing(self, **more: Any) -> IndexEvents:
        """A job that brings the index up to date."""
        fields = {"contract_address": self.tickets.address, "event_name": "TicketAllocated", "network_id": "31337"}
        return IndexEvents.model_validate(fields | more)

    def send_pending(self, price: int) -> str:
        """Send a transaction that stays in the node's pool, with the next nonce and so much to pay for gas."""
        self.node.call("evm_setAutomine", False)
        nonce = self.node.call("eth_getTransactionCount", OPERATOR, "latest")
        about = {"nonce": nonce, "gasPrice": hex(price)}
        return str(self.node.call("eth_sendTransaction", self.tickets.allocation(seat=str(price)) | about))

    async def run(self, job: Payload, **more: Any) -> HandlerRun:
        """Run one try of a job."""
        function = handle_event if isinstance(job, HandleEvent) else index_events
        return await run_handler(function, job, settings=WorkerSettings, ctx=self.ctx, **more)

    async def indexed(self) -> list[tuple[Any, ...]]:
        """What the index says, as `scanned` gives it."""
        row = EVENTS.c
        query = select(row.block_number, row.block_hash, row.tx_hash, row.log_index, row.parameters)
        async with self.service.database.read() as connection:
            found = (await connection.execute(query.order_by(row.block_number, row.log_index))).all()
        return [(*each[:4], json.dumps(each.parameters, sort_keys=True)) for each in found]

    def scanned(self) -> list[tuple[Any, ...]]:
        """What the chain says, read with nothing of ours."""
        from eth_abi.abi import decode
        from eth_utils.address import to_checksum_address
        from eth_utils.crypto import keccak

        topic = "0x" + keccak(text="TicketAllocated(address,uint256,uint64,string)").hex()
        asked = {"fromBlock": "0x0", "toBlock": "latest", "address": self.tickets.address, "topics": [topic]}
        found = []
        for log in self.node.call("eth_getLogs", asked):
            event_id, seat = decode(["uint64", "string"], bytes.fromhex(log["data"][2:]))
            said = {
                "winner": to_checksum_address("0x" + log["topics"][1][-40:]),
                "tokenId": str(int(log["topics"][2], 16)),
            }
            said |= {"eventId": str(event_id), "seat": seat}
            place = (int(log["blockNumber"], 16), log["blockHash"], log["transactionHash"], int(log["logIndex"], 16))
            found.append((*place, json.dumps(said, sort_keys=True)))
        return sorted(found, key=lambda row: (row[0], row[3]))
