"""JSON-RPC of the nodes of a chain: several for each network, of which one that fails is left alone for a while.

`Network.on_one_node` runs a step on one node from its beginning to its end, and on the next one where that one fails:
two nodes may be at different heights, or on different sides of a fork, so what belongs together comes from one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from daemon.errors import PermanentError, RetryAfter
from handlers.integrations.http import HttpClient, HttpError, HttpReply, HttpTooLarge, HttpUnavailable

T = TypeVar("T")

#: Networks by name, and what they call themselves.
CHAIN_IDS = {"mainnet": 1, "sepolia": 11_155_111, "polygon": 137}
#: How long a node that failed is asked last, or not at all where it said 429 without a time, seconds.
REST = 15.0


class RpcRefused(HttpError):
    """The node answers a call with an error.

    Attributes:
        code: JSON-RPC's, or the status.
    """

    def __init__(self, host: str, method: str, code: Any) -> None:
        self.code = code
        super().__init__(f"{host} answers {method} with the error {code}")


class NodeFailed(HttpError):
    """The node cannot be used now."""


class Node:
    """One node.

    Args:
        url: of its JSON-RPC, the operator's own.
        rate: calls per second this process makes to it at most; None: any number.
    """

    def __init__(self, http: HttpClient, url: str, rate: float | None = None) -> None:
        self._http = http
        #: So long after a job was enqueued, what the node says of waiting counts as a try.
        self.wait_limit = http.settings.wait_limit
        self._url = url
        self._pause = 1 / rate if rate else 0.0
        self._next = 0.0
        self._chain_id: int | None = None
        #: Until then it is asked last, and until then not at all; times of the monotonic clock.
        self.resting_until = self.told_to_wait_until = 0.0

    async def call(self, method: str, *params: Any) -> Any:
        """Make a call.

        Raises:
            RpcRefused: the node answers with an error.
            NodeFailed: it does not answer, or has to be left alone.
        """
        await self._take_turn()
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            reply = await self._http.post(self._url, json=request)
        except HttpTooLarge as error:
            raise RpcRefused(str(error).partition(" ")[0], method, "too large") from None
        except HttpUnavailable as error:
            self._rest()
            raise NodeFailed(str(error)) from None
        return self._result(reply, method)

    async def chain_id(self) -> int:
        """Give the number of its chain; it is asked once."""
        if self._chain_id is None:
            self._chain_id = self._number(await self.call("eth_chainId"), "eth_chainId")
        return self._chain_id

    async def height(self) -> int:
        """Give the number of its newest block."""
        return self._number(await self.call("eth_blockNumber"), "eth_blockNumber")

    async def block_hash(self, number: int) -> str | None:
        """Give the hash of the block with this number; None where it has none yet."""
        block = await self.record("eth_getBlockByNumber", hex(number), False)
        return None if block is None else str(block.get("hash"))

    async def block_time(self, number: str) -> datetime:
        """Give when the block with this number (as the node writes it) was made."""
        method = "eth_getBlockByNumber"
        block = await self.record(method, number, False) or {}
        return datetime.fromtimestamp(self._number(block.get("timestamp"), method), UTC)

    async def sender(self, tx_hash: str) -> tuple[str, int] | None:
        """Give who sent a transaction and which nonce it has; None where the node knows none of this hash."""
        method = "eth_getTransactionByHash"
        found = await self.record(method, tx_hash)
        if found is None:
            return None
        return str(found.get("from")), self._number(found.get("nonce"), method)

    async def nonces_used(self, sender: str, block: int) -> int:
        """Give how many nonces an account has used up to a block: all below that number."""
        method = "eth_getTransactionCount"
        return self._number(await self.call(method, sender, hex(block)), method)

    async def record(self, method: str, *params: Any) -> Mapping[str, Any] | None:
        """Make a call that is answered with an object or with nothing; raises as `call`."""
        found = await self.call(method, *params)
        if found is not None and not isinstance(found, Mapping):
            raise self._senseless(method)
        return found

    async def _take_turn(self) -> None:
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._pause
        if turn > now:
            await asyncio.sleep(turn - now)

    def _number(self, found: Any, method: str) -> int:
        try:
            return int(found, 16)
        except (TypeError, ValueError):
            raise self._senseless(method) from None

    def _senseless(self, method: str) -> NodeFailed:
        # As with one that is away: the next node may know better.
        self._rest()
        return NodeFailed(f"{urlsplit(self._url).hostname} answers {method} with something that is none")

    def _rest(self, told: float | None = None) -> None:
        now = time.monotonic()
        self.resting_until = now + REST
        if told is not None:
            self.told_to_wait_until = now + told

    def _result(self, reply: HttpReply, method: str) -> Any:
        try:
            answer = reply.json()
        except HttpError:
            answer = None
        error = answer.get("error") if isinstance(answer, Mapping) else None
        code = error.get("code") if isinstance(error, Mapping) else None
        if reply.status == 429 or code == 429:
            self._rest(REST if reply.retry_after is None else reply.retry_after)
            raise NodeFailed(f"{reply.host} says that these are too many calls")
        if error is not None or reply.status == 413:
            raise RpcRefused(reply.host, method, reply.status if code is None else code)
        if not reply.ok or not isinstance(answer, Mapping) or "result" not in answer:
            # A key that has expired is no reason to fail where another node would answer.
            self._rest()
            raise NodeFailed(f"{reply.host} answers {reply.status} to {method}")
        return answer["result"]


class Network:
    """The nodes of one chain, the preferred one first."""

    def __init__(self, name: str, nodes: Sequence[Node]) -> None:
        self.name = name
        self.nodes = tuple(nodes)

    async def on_one_node(self, step: Callable[[Node], Awaitable[T]]) -> T:
        """Run a step on a node; where that fails in the middle, run it anew on the next one.

        Raises:
            RetryAfter: all of them said to wait.
            NodeFailed: none can be used.
            RpcRefused: a node answers with an error.
            PermanentError: a node is of another chain.
        """
        now = time.monotonic()
        usable = [node for node in self.nodes if node.told_to_wait_until <= now]
        failure = None
        for node in sorted(usable, key=lambda node: node.resting_until > now):
            try:
                await self._of_this_chain(node)
                return await step(node)
            except NodeFailed as error:
                failure = error
        waiting = [node.told_to_wait_until - time.monotonic() for node in self.nodes]
        if failure is None or min(waiting) > 0:
            patience = min(node.wait_limit for node in self.nodes)
            raise RetryAfter(max(0.0, min(waiting)), "job", patience=patience)
        raise failure

    async def chain_id(self) -> int:
        """Give the number of the chain."""
        return await self.on_one_node(lambda node: node.chain_id())

    async def _of_this_chain(self, node: Node) -> None:
        expected = CHAIN_IDS.get(self.name) or (int(self.name) if self.name.isdecimal() else None)
        if expected is not None and await node.chain_id() != expected:
            raise PermanentError(
                f"a node of ARQD_RPC__{self.name.upper()} is of chain {await node.chain_id()}, not {expected}"
            )


def networks(rpc: Mapping[str, Any], http: HttpClient, rate: float | None = None) -> dict[str, Network]:
    """Give the networks of the settings: by name, and those of `CHAIN_IDS` by number, too.

    Args:
        rpc: ``settings.rpc``: URLs of a network, blanks between them.
    """
    found = {
        name.lower(): Network(name.lower(), [Node(http, url, rate) for url in urls.get_secret_value().split()])
        for name, urls in rpc.items()
    }
    for name, number in CHAIN_IDS.items():
        if name in found or str(number) in found:
            one = found.get(name) or found[str(number)]
            found = {name: one, str(number): one, **found}
    return found


def network_missing(name: str) -> str:
    """Tell that a network has no node."""
    return f"there is no node for {name}: set ARQD_RPC__{name.upper()}"


@dataclass(frozen=True, slots=True)
class Inclusion:
    """How a transaction stands on the chain.

    Attributes:
        receipt: as the node gives it; None: it is in no block, or its block was taken back.
        depth: blocks on it, its own included.
        detail: for people.
    """

    receipt: Any
    depth: int
    detail: str


async def inclusion(node: Node, tx_hash: str) -> Inclusion:
    """Look a transaction up: its receipt, whether its block is part of the chain, and how deep it is."""
    receipt = await node.record("eth_getTransactionReceipt", tx_hash)
    # Some nodes have one of what is still in the pool.
    if receipt is None or receipt.get("blockNumber") is None:
        known = await node.call("eth_getTransactionByHash", tx_hash)
        return Inclusion(None, 0, "in the pool" if known else "not on the chain (yet)")
    number = int(receipt["blockNumber"], 16)
    if await node.block_hash(number) != receipt["blockHash"]:
        return Inclusion(None, 0, "its block was taken back")
    depth = await node.height() - number + 1
    return Inclusion(receipt, depth, f"{depth} confirmations")


class _Unknown(Exception):
    """The node knows no such transaction."""


async def replaced(ctx: Any, node: Node, tx_hash: str, found: Inclusion, depth: int) -> str | None:
    """Tell whether a transaction that is not final can come into no block any more: another one has used its nonce.

    Who sent it is asked for as long as a node knows it, and kept with the job (the step ``sender`` of
    `JobContext.once`): of one that nobody has seen nothing is known.

    Args:
        ctx: the job's context.
        found: how the transaction stands.
        depth: blocks that make the other one final.
    """

    async def seen() -> tuple[str, int]:
        if (sent := await node.sender(tx_hash)) is None:
            raise _Unknown
        return sent

    try:
        sender, nonce = await ctx.once("sender", seen, returns=tuple[str, int])
    except _Unknown:
        return None
    if found.receipt is not None or (block := await node.height() - depth + 1) < 0:
        return None
    try:
        used = await node.nonces_used(sender, block)
    except RpcRefused:
        # Most nodes know of the newest blocks only what accounts were like.
        return None
    # It may have come into a block while we asked.
    if used <= nonce or (await inclusion(node, tx_hash)).receipt is not None:
        return None
    return f"the transaction was replaced: another transaction of {sender} has used its nonce, {nonce}"
