"""A contract's events, read from a node with web3. It takes a second to import: the running family does so, once."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from eth_abi.codec import ABICodec
from eth_abi.decoding import StringDecoder
from eth_abi.encoding import TextStringEncoder
from eth_abi.exceptions import DecodingError
from eth_abi.registry import registry

from handlers.blockchain.index import ChainEvent
from handlers.integrations.rpc import Node

# A library of web3's lets Python call itself 100,000 deep, which no stack holds: what recurses without end (a template
# of another family) would end the process where it should end a job.
_deepest = sys.getrecursionlimit()
from web3 import AsyncWeb3  # noqa: E402
from web3.exceptions import TransactionNotFound  # noqa: E402
from web3.logs import DISCARD  # noqa: E402
from web3.providers.async_base import AsyncBaseProvider  # noqa: E402

sys.setrecursionlimit(_deepest)

logger = logging.getLogger("arqd.blockchain")

#: Numbers of types this wide or wider travel as text: JSON's readers round them.
WIDE = 56
#: Logs read in one go, some 25 ms: a busy contract has thousands in a range, and other jobs run in this loop.
AT_ONCE = 100


class _Text(StringDecoder):
    """Text of an event. Contracts take any bytes for one: those that are none of UTF-8 are read as U+FFFD."""

    def __init__(self) -> None:
        super().__init__("replace")  # type: ignore[no-untyped-call]


def _codec() -> ABICodec:
    readable = registry.copy()  # type: ignore[no-untyped-call]
    readable.unregister("string")
    readable.register("string", TextStringEncoder, _Text, label="string")
    return ABICodec(readable)


class NodeProvider(AsyncBaseProvider):
    """Has web3 call a node the way everything here does: with its limits, and its errors."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    async def make_request(self, method: Any, params: Any) -> Any:
        """Make a call; errors are those of `Node.call`."""
        return {"jsonrpc": "2.0", "id": 1, "result": await self._node.call(method, *params)}


class ContractEvents:
    """Events of one name of one contract.

    Args:
        abis: readings of the event, all with one topic: they differ in what is indexed.
        address: the contract's.
    """

    def __init__(self, abis: Sequence[Any], address: str) -> None:
        topics = {_topic(abi) for abi in abis}
        if len(topics) != 1:
            raise ValueError(f"there are several events {abis[0]['name']}: give the signature")
        self.name = str(abis[0]["name"])
        (self.topic,) = topics
        self.address: str = AsyncWeb3.to_checksum_address(address)
        # Read without a node.
        reader: AsyncWeb3[Any] = AsyncWeb3()
        reader.codec = _codec()
        self._readings = [(abi, reader.eth.contract(abi=[abi]).events[abi["name"]]()) for abi in abis]
        self._clients: dict[Node, AsyncWeb3[NodeProvider]] = {}

    async def between(self, node: Node, first: int, last: int) -> list[ChainEvent]:
        """Give the events of these blocks, in order.

        Raises:
            RpcRefused: the node refuses the range, or anything else.
            NodeFailed: see `Node.call`.
        """
        asked: Any = {"fromBlock": first, "toBlock": last, "address": self.address, "topics": [self.topic]}
        logs = await self._client(node).eth.get_logs(asked)
        return await self._read(await node.chain_id(), logs)

    async def of_transaction(self, node: Node, tx_hash: Any) -> list[ChainEvent] | None:
        """Give the events of a transaction, None for one that is in no block; raises as `between`."""
        try:
            receipt = await self._client(node).eth.get_transaction_receipt(tx_hash)
        except TransactionNotFound:
            return None
        return await self._read(await node.chain_id(), receipt["logs"])

    def _client(self, node: Node) -> AsyncWeb3[NodeProvider]:
        if node not in self._clients:
            self._clients[node] = AsyncWeb3(NodeProvider(node))
        return self._clients[node]

    async def _read(self, chain_id: int, logs: Iterable[Any]) -> list[ChainEvent]:
        found = []
        for number, log in enumerate(logs, 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if log["address"] == self.address and log["topics"] and AsyncWeb3.to_hex(log["topics"][0]) == self.topic:
                parameters = self._parameters(log)
                if parameters is not None:
                    found.append(self._event(chain_id, log, parameters))
        return sorted(found, key=lambda event: (event.block_number, event.log_index))

    def _parameters(self, log: Any) -> dict[str, Any] | None:
        """Give what the event says; None where it is another contract's idea of this name and these types."""
        for abi, reading in self._readings:
            try:
                for found in reading.process_receipt({"logs": [log]}, errors=DISCARD):
                    return {each["name"]: _plain(found["args"][each["name"]], each["type"]) for each in abi["inputs"]}
            except DecodingError as error:
                # Whatever a contract has written there: it must not keep the events behind it from being read.
                where = f"{AsyncWeb3.to_hex(log['transactionHash'])}, log {log['logIndex']}"
                logger.warning("an event %s is left out, its data are none: %s: %s", self.name, where, error)
        return None

    def _event(self, chain_id: int, log: Any, parameters: dict[str, Any]) -> ChainEvent:
        return ChainEvent(
            chain_id=chain_id,
            tx_hash=AsyncWeb3.to_hex(log["transactionHash"]),
            log_index=int(log["logIndex"]),
            block_number=int(log["blockNumber"]),
            block_hash=AsyncWeb3.to_hex(log["blockHash"]),
            address=self.address,
            topic=self.topic,
            event=self.name,
            parameters=parameters,
        )


def _topic(abi: Any) -> str:
    return AsyncWeb3.to_hex(AsyncWeb3.keccak(text=f"{abi['name']}({','.join(each['type'] for each in abi['inputs'])})"))


def _plain(value: Any, kind: str) -> Any:
    """Give a value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each, kind.rpartition("[")[0]) for each in value]
    if isinstance(value, bytes):
        return AsyncWeb3.to_hex(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if int(kind.lstrip("uint") or 256) >= WIDE else value
    return value
