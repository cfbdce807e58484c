"""Crypto: has a transfer arrived on its chain, and is it deep enough to count?

Asked by JSON-RPC: the receipt, whether its block is still part of the chain, how many blocks are on it, and that it
pays whom and what it should.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from daemon.context import JobContext
from daemon.errors import PermanentError
from handlers.integrations.rpc import Network, Node, inclusion, replaced
from handlers.payments.attempts import State
from handlers.payments.money import units
from handlers.payments.payloads import RetryPayment

#: keccak256 of ``Transfer(address,address,uint256)``.
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


class Chain:
    """Asks the nodes of one chain.

    Args:
        confirmations: blocks on a transfer's before it counts, its own included.
    """

    def __init__(self, network: Network, confirmations: int) -> None:
        self._network = network
        self._confirmations = confirmations

    async def look_up(self, ctx: JobContext, job: RetryPayment) -> State:
        """Tell how the job's transfer stands.

        ``object_id`` of one that has arrived is ``chain:hash``, the same however the network is called.

        Raises:
            PermanentError: it is not what it should be: another receiver or sender, too little, another token, too old.
        """
        return await self._network.on_one_node(lambda node: self._look_up(ctx, node, job))

    async def _look_up(self, ctx: JobContext, node: Node, job: RetryPayment) -> State:
        found = await inclusion(node, str(job.tx_hash))
        open = found.receipt is None or found.depth < self._confirmations
        if open and (gone := await replaced(ctx, node, str(job.tx_hash), found, self._confirmations)):
            return State("failed", gone)
        if found.receipt is None:
            return State("pending", found.detail)
        if found.depth < self._confirmations:
            # Before: what was reverted may go well in the block that a reorganisation puts it into.
            return State("pending", f"{found.depth} of {self._confirmations} confirmations")
        if found.receipt["status"] != "0x1":
            return State("failed", "the transaction was reverted")
        await self._check(node, job, found.receipt)
        return State("paid", found.detail, f"{await node.chain_id()}:{str(job.tx_hash).lower()}")

    async def _check(self, node: Node, job: RetryPayment, receipt: Any) -> None:
        assert job.amount is not None
        assert job.to is not None
        wanted = units(job.amount, job.decimals)
        to, sender = job.to.lower(), job.sender and job.sender.lower()
        sent = await _transfers(node, job, receipt)
        paid = sum(each.units for each in sent if each.to == to and sender in (None, each.sender))
        if paid < wanted:
            whose = f" from {job.sender}" if sender else ""
            raise PermanentError(
                f"the transfer pays {paid} of {wanted} units to the receiver{whose}: it is not the one expected"
            )
        if job.not_before is None:
            return
        made = await node.block_time(receipt["blockNumber"])
        # Blocks know whole seconds.
        if made < job.not_before.replace(microsecond=0):
            raise PermanentError(f"the transfer is of {made:%Y-%m-%dT%H:%M:%SZ}, from before this payment")


class _Transfer(NamedTuple):
    sender: str
    to: str
    units: int


async def _transfers(node: Node, job: RetryPayment, receipt: Any) -> list[_Transfer]:
    """Give what a transaction has moved of the job's token, or of the chain's own coin; addresses in small letters."""
    if job.token is None:
        sent = await node.call("eth_getTransactionByHash", job.tx_hash)
        return [_Transfer(sent["from"].lower(), (sent["to"] or "").lower(), int(sent["value"], 16))]
    return [
        _Transfer(_address(log["topics"][1]), _address(log["topics"][2]), int(log["data"], 16))
        for log in receipt["logs"]
        if log["address"].lower() == job.token.lower()
        and [topic.lower() for topic in log["topics"][:1]] == [TRANSFER]
        and len(log["topics"]) == 3
    ]


def _address(topic: str) -> str:
    return f"0x{topic[-40:].lower()}"
