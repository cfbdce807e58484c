"""Crypto: has a transfer arrived on its chain, and is it deep enough to count?

Asked by JSON-RPC: the receipt, whether its block is still part of the chain, how many blocks are on it, and that it
pays whom and what it should.
"""

from __future__ import annotations

from typing import Any

from daemon.errors import PermanentError
from handlers.integrations.http import HttpClient, HttpError
from handlers.payments.attempts import State
from handlers.payments.money import units
from handlers.payments.payloads import RetryPayment

#: keccak256 of ``Transfer(address,address,uint256)``.
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


class Chain:
    """Asks one node.

    Args:
        url: of its JSON-RPC.
        confirmations: blocks on a transfer's before it counts, its own included.
    """

    def __init__(self, http: HttpClient, url: str, confirmations: int) -> None:
        self._http = http
        self._url = url
        self._confirmations = confirmations

    async def look_up(self, job: RetryPayment) -> State:
        """Tell how the job's transfer stands.

        ``object_id`` of one that has arrived is ``chain:hash``, the same however the network is called.

        Raises:
            PermanentError: it is not what it should be: another receiver, too little, another token.
        """
        receipt = await self._call("eth_getTransactionReceipt", job.tx_hash)
        if receipt is None:
            known = await self._call("eth_getTransactionByHash", job.tx_hash)
            return State("pending", "in the pool" if known else "not on the chain (yet)")
        block = await self._call("eth_getBlockByNumber", receipt["blockNumber"], False)
        if block is None or block["hash"] != receipt["blockHash"]:
            return State("pending", "its block was taken back")
        if receipt["status"] != "0x1":
            return State("failed", "the transaction was reverted")
        await self._check(job, receipt)
        deep = int(await self._call("eth_blockNumber"), 16) - int(receipt["blockNumber"], 16) + 1
        if deep < self._confirmations:
            return State("pending", f"{deep} of {self._confirmations} confirmations")
        chain = int(await self._call("eth_chainId"), 16)
        return State("paid", f"{deep} confirmations", f"{chain}:{str(job.tx_hash).lower()}")

    async def _check(self, job: RetryPayment, receipt: Any) -> None:
        assert job.amount is not None
        assert job.to is not None
        wanted = units(job.amount, job.decimals)
        to = job.to.lower()
        if job.token is None:
            sent = await self._call("eth_getTransactionByHash", job.tx_hash)
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

    async def _call(self, method: str, *params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = (await self._http.post(self._url, json=request)).checked("function").json()
        if "error" in answer:
            raise HttpError(f"the node answers {method} with an error: {answer['error'].get('code')}")
        return answer.get("result")
