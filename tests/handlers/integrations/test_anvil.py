"""The node of the tests does what they rely on: a contract's events, reorganisations, restarts."""

from __future__ import annotations

from typing import Any

from tests.anvil import Anvil, Tickets


def places(tickets: Tickets) -> list[tuple[int, str, str]]:
    """Where the contract's events stand."""
    found: list[dict[str, Any]] = tickets.node.call(
        "eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": tickets.address}
    )
    return [(int(log["blockNumber"], 16), log["blockHash"], log["transactionHash"]) for log in found]


def test_the_node(anvil: Anvil) -> None:
    tickets = Tickets.deploy(anvil)
    anvil.mine(2)
    first = tickets.allocate(count=2)
    anvil.mine(3)
    before = places(tickets)
    assert [(number, sent) for number, _, sent in before] == [(4, first)] * 4
    anvil.restart()
    assert places(tickets) == before
    anvil.mine(3)
    second = tickets.allocate()
    height = anvil.height
    anvil.reorganise(2, [(tickets.allocation(seat="B7"), 1)])
    assert anvil.height == height
    assert anvil.call("eth_getTransactionReceipt", second) is None
    assert [number for number, _, _ in places(tickets)[4:]] == [height, height]
    assert places(tickets)[:4] == before
