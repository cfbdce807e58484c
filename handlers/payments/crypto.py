"""Crypto: has a transfer arrived on its chain, and is it deep enough to count?

Asked by JSON-RPC: the receipt, whether its block is still part of the chain, how many blocks are on it, and that it
pays whom and what it should.
"""

from __future__ import annotations

from typing import Any

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
            PermanentError: it is not what it should be: another receiver, too little, another token.
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
        to = job.to.lower()
        if job.token is None:
            sent = await node.call("eth_getTransactionByHash", job.tx_hash)
            paid = int(sent["value"], 16) if (sent["to"] or "").lower() == to else 0
        else:
            paid = sum(
                int(log["data"], 16)
                for log in receipt["logs"]
                if log["address"].lower() == job.token.lower()
                and [topic.lower() for topic in log["topics"][:1]] == [TRANSFER]
                and len(log["topics"]) == 3
                and log["topics"][2][-40:].lower() == to[2:]
            )
        if paid < wanted:
            raise PermanentError(
                f"the transfer pays {paid} of {wanted} units to the receiver: it is not the one expected"
            )
