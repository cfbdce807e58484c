"""handle_event on a real node: what is on the chain, deep enough, and what the job says; on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from daemon.errors import PermanentError, RetryAfter
from handlers.blockchain.payloads import HandleEvent
from handlers.blockchain.signatures import event_abi
from handlers.blockchain.tasks import NotOnChain
from tests.anvil import OPERATOR, TICKET_ALLOCATED, WINNER
from tests.handlers.blockchain.support import CONFIRMATIONS, Chain

ADDRESS, TX = "0x" + "Ab" * 20, "0x" + "cd" * 32


async def test_verified_without_being_stored(chain: Chain) -> None:
    sent = chain.tickets.allocate()
    chain.node.mine(CONFIRMATIONS - 1)
    seen = (await chain.run(chain.event(sent, action="verify", parameters={"winner": WINNER.lower()}))).value()
    assert (seen.confirmations, seen.indexed, seen.chain_id) == (CONFIRMATIONS, False, 31337)
    assert seen.parameters == {"winner": WINNER, "tokenId": "1", "eventId": "7", "seat": "A1"}
    assert await chain.indexed() == []


async def test_it_waits_for_confirmations_and_is_stored_once(chain: Chain) -> None:
    sent = chain.tickets.allocate()
    for _ in range(CONFIRMATIONS - 1):
        run = await chain.run(chain.event(sent))
        # It comes back later, which counts as no try, and holds no slot meanwhile.
        assert (run.ending, run.retry_in) == ("told_to_wait", 12)
        assert isinstance(run.error, RetryAfter)
        assert run.error.scope == "job"
        chain.node.mine()
    assert [(await chain.run(chain.event(sent))).value().existed for _ in range(2)] == [False, True]
    assert await chain.indexed() == chain.scanned()
    # The other function finds it, and it stays one.
    await chain.run(chain.indexing())
    assert await chain.indexed() == chain.scanned()


async def test_a_reorganisation_before_it_is_final(chain: Chain) -> None:
    chain.node.mine(2)
    raw = chain.node.call("eth_getRawTransactionByHash", sent := chain.tickets.allocate())
    chain.node.reorganise(1)
    run = await chain.run(chain.event(sent))
    assert run.ending == "told_to_wait"
    chain.node.call("eth_sendRawTransaction", raw)
    chain.node.mine(CONFIRMATIONS)
    assert (await chain.run(chain.event(sent))).value().block_number == chain.scanned()[0][0]
    assert await chain.indexed() == chain.scanned()


async def test_what_is_not_so_is_permanent(chain: Chain) -> None:
    sent = chain.tickets.allocate(count=2)
    reverted = chain.tickets.allocate(count=0)
    chain.node.mine(CONFIRMATIONS)
    for job, told in [
        (chain.event(reverted), "reverted"),
        (chain.event(sent, contract_address=ADDRESS), "no TicketAllocated of this contract"),
        (chain.event(sent, parameters={"winner": ADDRESS, "seat": "A1"}), "otherwise about winner$"),
        (chain.event(sent, parameters={"nonsense": 1}), "otherwise about nonsense"),
        (chain.event(sent, log_index=0), "no TicketAllocated"),
        (chain.event(sent), "2 events like that: give log_index"),
        (chain.event(sent, event_name="Approved"), "ARQD_BLOCKCHAIN__EVENTS"),
        (chain.event(sent, network_id="polygon"), "ARQD_RPC__POLYGON"),
        (chain.event(sent, action="notify"), "nobody to notify"),
    ]:
        run = await chain.run(job)
        assert (run.ending, run.reason) == ("failed", "permanent")
        with pytest.raises(PermanentError, match=told):
            run.value()
    assert (await chain.run(chain.event(sent, parameters={"tokenId": 2}))).value().log_index == 3
    assert (await chain.run(chain.event(sent, log_index=1))).value().parameters["tokenId"] == "1"


async def test_one_that_never_comes_is_given_up(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await chain.run(chain.event(TX))).ending == "told_to_wait"
    monkeypatch.setitem(chain.service.settings.__dict__, "pending_limit", -1.0)
    with pytest.raises(NotOnChain, match=r"still not on the chain \(yet\) after"):
        (await chain.run(chain.event(TX))).value()


async def test_one_that_was_replaced(chain: Chain) -> None:
    """Its sender has used the nonce for another transaction: it can come into no block any more."""
    sent = chain.send_pending(2 * 10**9)
    run = await chain.run(chain.event(sent))
    assert run.ending == "told_to_wait"
    other = chain.send_pending(4 * 10**9)
    for _ in range(CONFIRMATIONS - 1):
        chain.node.mine()
        assert chain.node.call("eth_getTransactionReceipt", sent) is None
        run = await chain.run(chain.event(sent), receipts=run.receipts)
        assert run.ending == "told_to_wait", "a reorganisation could take the other one back"
    chain.node.mine()
    run = await chain.run(chain.event(sent), receipts=run.receipts)
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(NotOnChain, match=f"replaced: another transaction of {OPERATOR.lower()} has used its nonce"):
        run.value()
    assert (await chain.run(chain.event(other))).value().transaction_hash == other


async def test_one_that_was_replaced_behind_a_reorganisation(chain: Chain) -> None:
    chain.node.mine(2)
    sent = chain.tickets.allocate()
    run = await chain.run(chain.event(sent))
    assert run.ending == "told_to_wait"
    chain.node.reorganise(1, [(chain.tickets.allocation(seat="B2"), 0)])
    chain.node.mine(CONFIRMATIONS)
    run = await chain.run(chain.event(sent), receipts=run.receipts)
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert "replaced" in str(run.error)


async def test_a_node_that_has_forgotten_old_nonces(chain: Chain) -> None:
    sent = chain.send_pending(2 * 10**9)
    run = await chain.run(chain.event(sent))
    chain.send_pending(4 * 10**9)
    chain.node.mine(CONFIRMATIONS)
    chain.gateway.refuses = "eth_getTransactionCount"
    assert (await chain.run(chain.event(sent), receipts=run.receipts)).ending == "told_to_wait"


async def test_notify_tells_once(chain: Chain) -> None:
    sent = chain.tickets.allocate()
    chain.node.mine(CONFIRMATIONS)
    job = chain.event(sent, action="notify", user_id="ada", endpoint="shop", secret_ref="shop")
    run = await chain.run(job)
    assert run.value().notified
    note, hook = run.enqueued
    assert (note.family, note.function, hook.family, hook.function) == (
        "notifications",
        "notify_user",
        "webhooks",
        "deliver_webhook",
    )
    assert (note.payload["user_id"], note.payload["title"]) == ("ada", "TicketAllocated")
    assert (hook.payload["event"], hook.payload["secret_ref"]) == ("chain.TicketAllocated", "shop")
    assert hook.payload["payload"]["parameters"]["winner"] == WINNER
    assert (hook.options.get("group"), note.options.get("group")) == ("shop", None)
    again = await chain.run(job)
    assert again.value().notified
    assert again.enqueued == []


async def test_events_of_standards_are_known(chain: Chain) -> None:
    sent = chain.tickets.allocate()
    chain.node.mine(CONFIRMATIONS)
    seen = (await chain.run(chain.event(sent, event_name="Transfer"))).value()
    assert seen.parameters == {"from": "0x" + "0" * 40, "to": WINNER, "tokenId": "1"}


def test_payloads() -> None:
    """The seeds' field names, and what is refused."""
    job = HandleEvent.model_validate(
        {
            "contractAddress": ADDRESS,
            "eventName": "TicketAllocated",
            "parameters": {"winner": ADDRESS, "transactionHash": TX, "logIndex": 4},
            "networkId": 1,
        }
    )
    assert (job.transaction_hash, job.log_index, job.parameters, job.network_id) == (TX, 4, {"winner": ADDRESS}, "1")
    assert HandleEvent.model_validate_json(job.model_dump_json()) == job
    good: dict[str, Any] = {"contract_address": ADDRESS, "event_name": "Paid", "transaction_hash": TX}
    for fields in (
        {"contract_address": "0x12"},
        {"transaction_hash": None},
        {"event_name": "Paid()"},
        {"signature": TICKET_ALLOCATED},
        {"signature": "Paid(struct x)"},
        {"action": "burn"},
        {"endpoint": "https://shop.example/hook"},
        {"network_id": "Main Net"},
        {"more": 1},
    ):
        with pytest.raises(ValidationError):
            HandleEvent.model_validate(good | fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paid",
        "Paid(uint)x",
        "Paid(uint256 a, uint256 a)",
        "Paid((uint a) b)",
        "Paid(bytes33 a)",
        "Paid(uint265 a)",
        "Paid(int100[] a)",
        "1Paid()",
        "Paid(uint indexed a, uint indexed b, uint indexed c, uint indexed d)",
    ],
)
def test_what_is_no_event(text: str) -> None:
    with pytest.raises(ValueError, match=r"event|type|name|indexed"):
        event_abi(text)


def test_an_event_as_solidity_writes_it() -> None:
    abi = event_abi("event Paid(address indexed by, uint amount, bytes32[] notes, bool);")
    assert [(each["type"], each["name"], each["indexed"]) for each in abi["inputs"]] == [
        ("address", "by", True),
        ("uint256", "amount", False),
        ("bytes32[]", "notes", False),
        ("bool", "arg3", False),
    ]
    assert event_abi("Nothing()")["inputs"] == []
