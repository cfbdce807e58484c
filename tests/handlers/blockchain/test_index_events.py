"""index_events on a real node: ranges, reorganisations, restarts, several nodes; on both databases."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from daemon.errors import RetryAfter
from daemon.testing.recording import RecordingProducer
from handlers.blockchain.contracts import ContractEvents
from handlers.blockchain.indexer import TOLD_AT_ONCE, Span
from handlers.blockchain.payloads import IndexedRange
from handlers.blockchain.signatures import event_abi
from handlers.blockchain.tasks import NotOnChain
from handlers.integrations.rpc import Node
from tests.anvil import OPERATOR, WINNER, Anvil
from tests.handlers.blockchain.support import CONFIRMATIONS, Chain
from tests.handlers.receiver import Answer, Receiver


async def follow(chain: Chain, **more: Any) -> IndexedRange:
    return IndexedRange.model_validate((await chain.run(chain.indexing(**more))).value())


async def test_the_index_is_what_the_chain_says(chain: Chain) -> None:
    chain.tickets.allocate(count=3)
    chain.node.mine(4)
    chain.tickets.allocate(seat="B2")
    done = await follow(chain)
    assert (done.added, done.removed, done.to_block) == (4, 0, chain.node.height)
    assert await chain.indexed() == chain.scanned()
    again = await follow(chain)
    assert (again.added, again.removed) == (0, 0)
    # As many blocks as make an event final are looked through again.
    assert again.from_block == chain.node.height - CONFIRMATIONS + 1
    assert await chain.indexed() == chain.scanned()


@pytest.mark.parametrize("depth", [2, 6])
async def test_what_a_reorganisation_took_back_goes(chain: Chain, depth: int) -> None:
    """Also where more blocks were replaced than are looked through again anyway."""
    chain.node.mine(9)
    old = chain.tickets.allocate(seat="old")
    chain.node.mine(1)
    await follow(chain)
    chain.node.reorganise(depth, [(chain.tickets.allocation(seat="new"), 0)])
    done = await follow(chain)
    assert (done.added, done.removed) == (1, 1)
    assert await chain.indexed() == chain.scanned()
    assert old not in {row[2] for row in await chain.indexed()}


async def test_the_same_transaction_in_another_block(chain: Chain) -> None:
    chain.node.mine(5)
    sent = chain.node.call("eth_getTransactionByHash", chain.tickets.allocate(count=2))
    chain.node.mine(1)
    await follow(chain)
    before = await chain.indexed()
    raw = chain.node.call("eth_getRawTransactionByHash", sent["hash"])
    chain.node.call("anvil_reorg", 3, [[raw, 2]])
    done = await follow(chain)
    after = await chain.indexed()
    assert after == chain.scanned()
    assert [row[2:4] for row in before] == [row[2:4] for row in after]
    assert before[0][:2] != after[0][:2]
    assert (done.added, done.removed) == (0, 0) or done.added == done.removed


async def test_what_strangers_write_stops_nothing(chain: Chain) -> None:
    """A contract passes a caller's text on unread: what is none of its type must not keep the others from the index."""
    topic = keccak(text="Named(string)").hex()
    # Puts what it is called with into an event's data, behind eleven bytes that put this code on the chain.
    code = f"602c80600b6000396000f33660006000377f{topic}366000a100"
    receipt = chain.node.call("eth_getTransactionReceipt", chain.node.send(data=f"0x{code}"))
    contract = receipt["contractAddress"]
    texts = [b"Ada", b"\xffBob", b"C\x00"]
    datas = [encode(["bytes"], [text]) for text in texts]
    datas.insert(1, b"\xff" * 64)
    sent = [chain.node.send(to=contract, data=f"0x{data.hex()}") for data in datas]
    named = {"contract_address": contract, "event_name": "Named", "signature": "Named(string name)"}
    assert (await follow(chain, **named)).added == 3
    assert [json.loads(row[4]) for row in await chain.indexed()] == [
        {"name": "Ada"}, {"name": "\ufffdBob"}, {"name": "C\x00"},
    ]  # fmt: skip
    chain.node.mine(CONFIRMATIONS)
    unread = await chain.run(chain.event(sent[1], **named))
    assert isinstance(unread.error, NotOnChain)


async def test_a_node_that_limits_the_range(chain: Chain) -> None:
    for _ in range(3):
        chain.tickets.allocate()
        chain.node.mine(60)
    chain.gateway.most = 20
    done = await follow(chain)
    assert (done.added, done.to_block) == (3, chain.node.height)
    assert await chain.indexed() == chain.scanned()
    assert chain.gateway.refused <= 12
    assert max(chain.gateway.ranges) > 15
    # The next pass asks for what it may from the start.
    refused = chain.gateway.refused
    chain.node.mine(50)
    await follow(chain)
    assert chain.gateway.refused - refused <= 4


def test_the_span_finds_the_limit() -> None:
    for limit in (1, 7, 100, 1999, 5000):
        span, refused, done = Span(2000, 2000), 0, 0
        while done < 100_000:
            if span.size > limit:
                span.refused(span.size)
                refused += 1
            else:
                done += span.size
                span.took(span.size)
        assert refused <= 20
        assert span.size >= min(limit, 2000) * 7 // 8


async def test_a_node_that_refuses_a_single_block(chain: Chain) -> None:
    chain.gateway.most = 0
    run = await chain.run(chain.indexing())
    assert run.ending == "retried"
    assert "-32005" in str(run.error)


async def test_a_reorganisation_in_the_middle_of_a_pass(chain: Chain) -> None:
    chain.node.mine(6)
    chain.tickets.allocate()
    chain.node.mine(1)
    moves = [lambda: chain.node.reorganise(3, [(chain.tickets.allocation(seat="new"), 1)])]

    def move(method: str) -> None:
        if method == "eth_getLogs" and moves:
            moves.pop()()

    chain.gateway.before = move
    await follow(chain)
    assert await chain.indexed() == chain.scanned()
    assert not moves


async def test_a_long_way_is_gone_in_several_tries(chain: Chain) -> None:
    chain.tickets.allocate()
    chain.node.mine(30)
    chain.gateway.most = 2
    chain.gateway.before = lambda method: None
    run = await chain.run(chain.indexing(), timeout=0.05)
    tries = 1
    while run.ending != "completed":
        assert run.ending in ("told_to_wait", "retried"), run.error
        if run.ending == "told_to_wait":
            assert isinstance(run.error, RetryAfter)
            assert run.error.scope == "job"
        run = await chain.run(chain.indexing(), timeout=0.05 * (1 + tries))
        tries += 1
        assert tries < 60
    assert await chain.indexed() == chain.scanned()


async def test_two_passes_at_once(chain: Chain) -> None:
    for _ in range(4):
        chain.tickets.allocate()
        chain.node.mine(10)
    chain.gateway.most = 7
    runs = await asyncio.gather(*(chain.run(chain.indexing()) for _ in range(3)))
    for run in runs:
        assert run.ending in ("completed", "told_to_wait"), run.error
    await follow(chain)
    assert await chain.indexed() == chain.scanned()


async def test_each_event_is_told_of_once_when_it_is_final(chain: Chain) -> None:
    sent = chain.tickets.allocate(count=2)
    run = await chain.run(chain.indexing(action="notify", endpoint="shop", user_id="ada"))
    assert run.value().notified == 0
    chain.node.mine(CONFIRMATIONS - 1)
    run = await chain.run(chain.indexing(action="notify", endpoint="shop", user_id="ada"))
    assert run.value().notified == 2
    assert Counter(job.function for job in run.enqueued) == {"notify_user": 2, "deliver_webhook": 2}
    ids = {job.id for job in run.enqueued}
    assert len(ids) == 4
    assert any(f"chain-31337-{sent}-1" in job_id for job_id in ids)
    again = await chain.run(chain.indexing(action="notify", endpoint="shop", user_id="ada"))
    assert (again.value().notified, again.enqueued) == (0, [])


async def test_many_events_are_handed_over_together(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    enqueue = RecordingProducer._send

    async def counted(self: RecordingProducer, jobs: Any) -> Any:
        calls.append(len(listed := list(jobs)))
        return await enqueue(self, listed)

    chain.tickets.allocate(count=TOLD_AT_ONCE + 20)
    chain.node.mine(CONFIRMATIONS)
    monkeypatch.setattr(RecordingProducer, "_send", counted)
    run = await chain.run(chain.indexing(action="notify", endpoint="shop", user_id="ada"))
    assert run.value().notified == TOLD_AT_ONCE + 20
    assert len({job.id for job in run.enqueued}) == 2 * (TOLD_AT_ONCE + 20)
    # The job itself, then a call for the notifications and one for the webhooks of each portion.
    assert calls == [1, TOLD_AT_ONCE, TOLD_AT_ONCE, 20, 20]
    assert (await chain.run(chain.indexing(action="notify", user_id="ada"))).value().notified == 0


async def test_an_event_too_large_to_tell_whole(chain: Chain) -> None:
    """Who may write a text into a contract's event must not keep those behind it from being told of."""
    # Six characters each in JSON.
    long = chain.tickets.allocation(seat="\x01" * 200_000)
    chain.node.send(**long | {"gas": hex(16_000_000)})
    chain.tickets.allocate(seat="B2")
    chain.node.mine(CONFIRMATIONS)
    run = await chain.run(chain.indexing(action="notify", endpoint="shop", user_id="ada"))
    assert run.value().notified == 2
    large, small = [job.payload["payload"] for job in run.enqueued if job.function == "deliver_webhook"]
    assert (large["parameters"], large["truncated"]) == ({"tokenId": "1", "eventId": "7", "winner": WINNER}, True)
    assert (small["parameters"]["seat"], "truncated" in small) == ("B2", False)
    assert len((await chain.indexed())[0][4]) > 1_200_000, "the index has all of it"


class Full:
    """In place of a node: blocks with thousands of events, which would take a real one minutes to make."""

    def __init__(self, contract: ContractEvents, count: int) -> None:
        place = {"address": contract.address, "blockHash": "0x" + "1" * 64, "transactionIndex": "0x0", "removed": False}
        self.logs = [
            {"topics": [contract.topic], "data": f"0x{n:064x}", "blockNumber": "0x1", "logIndex": hex(n)}
            | {"transactionHash": f"0x{n:064x}", **place}
            for n in range(count)
        ]

    async def call(self, method: str, *params: Any) -> Any:
        return self.logs

    async def chain_id(self) -> int:
        return 1


async def test_thousands_of_events_leave_the_loop_to_others() -> None:
    contract = ContractEvents([event_abi("Paid(uint256 amount)")], OPERATOR)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(others())
    found = await contract.between(cast(Node, Full(contract, 2000)), 1, 1)
    beside.cancel()
    assert [event.parameters["amount"] for event in found] == [str(n) for n in range(2000)]
    assert turns >= 10


async def test_told_of_when_it_is_final_for_who_tells(chain: Chain) -> None:
    """Another job indexes the same events, for which less is enough."""
    chain.tickets.allocate()
    assert (await follow(chain, confirmations=1)).added == 1
    telling = {"action": "notify", "user_id": "ada", "confirmations": 3}
    assert (await follow(chain, **telling)).notified == 0
    chain.node.mine(1)
    await follow(chain, confirmations=1)
    assert (await follow(chain, **telling)).notified == 0
    chain.node.mine(1)
    assert (await follow(chain, **telling)).notified == 1
    assert (await follow(chain, **telling)).notified == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("blocks", [40, pytest.param(320, marks=pytest.mark.slow)])
async def test_random_reorganisations_and_restarts(chain: Chain, blocks: int) -> None:
    """The index is what a fresh scan gives, and no event is told of twice."""
    print(dict(await chaos(chain, blocks, seed=random.randrange(10**6))))


async def chaos(chain: Chain, blocks: int, seed: int) -> Counter[str]:
    """Let a chain grow by so many blocks with reorganisations up to depth 6 and restarts, indexing all the while."""
    print("seed", seed)
    dice = random.Random(seed)
    told: Counter[str] = Counter()
    done: Counter[str] = Counter()
    job = chain.indexing(action="notify", endpoint="shop", confirmations=7)
    chain.node.mine(6)
    begun = chain.node.height
    since_start = 6

    async def step() -> None:
        run = await chain.run(job)
        assert run.ending in ("completed", "retried", "told_to_wait"), run.error
        done[run.ending] += 1
        for each in run.enqueued:
            # Events are told apart by what they say: a log's place changes with its block.
            said = each.payload["payload"]
            told[f"{said['transaction_hash']} {said['parameters']['tokenId']}"] += 1

    while chain.node.height - begun < blocks:
        what = dice.choices(["allocate", "mine", "reorganise", "restart", "kill"], [5, 3, 2, 0.3, 0.3])[0]
        before = chain.node.height
        if what == "allocate":
            chain.tickets.allocate(count=dice.randint(1, 3), seat=f"S{dice.randrange(1000)}")
        elif what == "mine":
            chain.node.mine(dice.randint(1, 4))
        elif what == "reorganise":
            depth = dice.randint(1, 6)
            if depth < since_start:
                new = [
                    (chain.tickets.allocation(seat=f"R{dice.randrange(1000)}"), dice.randrange(depth))
                    for _ in range(dice.randint(0, 2))
                ]
                chain.node.reorganise(depth, new)
                done["reorganise"] += 1
        elif what == "restart":
            chain.node.restart()
            done["restart"] += 1
            since_start = 0
        else:
            # In the middle of a pass, which then fails.
            chain.node.stop()
            await step()
            chain.node.start()
            done["away"] += 1
            since_start = 0
        since_start += max(0, chain.node.height - before)
        if dice.random() < 0.7:
            await step()
    chain.node.mine(7)
    await step()
    await step()
    assert done["completed"] > done["retried"]
    assert await chain.indexed() == chain.scanned()
    assert set(told.values()) <= {1}
    return done + Counter({"events": len(told), "blocks": chain.node.height})


async def test_a_node_that_is_far_behind(chain: Chain, tmp_path: Path) -> None:
    """It says nothing of what was looked through: another one is asked, and what is known stays."""
    chain.tickets.allocate()
    chain.node.mine(2 * CONFIRMATIONS)
    await follow(chain)
    network = chain.service.network("31337")
    (node,) = network.nodes
    other = Anvil(tmp_path)
    try:
        network.nodes = (type(node)(chain.service.http, other.start().url, None), node)
        again = await follow(chain)
        assert again.from_block == chain.node.height - CONFIRMATIONS + 1
        network.nodes = network.nodes[:1]
        alone = await chain.run(chain.indexing())
        assert alone.ending == "retried"
        assert "is at block 0, and others were further" in str(alone.error)
    finally:
        other.close()
    assert await chain.indexed() == chain.scanned()


async def test_another_node_answers_where_one_fails(chain: Chain) -> None:
    chain.tickets.allocate()
    (node,) = chain.service.network("31337").nodes
    other = type(node)(chain.service.http, "http://127.0.0.1:9", None)
    network = chain.service.network("31337")
    network.nodes = (other, node)
    assert (await follow(chain)).added == 1
    # The one that failed is asked last from now on.
    assert other.resting_until > 0
    network.nodes = (other,)
    assert (await chain.run(chain.indexing())).ending == "retried"


@pytest.mark.parametrize(
    "body", [b'{"result": null}', b'{"result": {}}', b'{"result": "many"}', b"[" * 100_000, b"<html>", b"7"]
)
async def test_another_node_answers_where_one_talks_nonsense(chain: Chain, body: bytes) -> None:
    chain.tickets.allocate()
    network = chain.service.network("31337")
    (node,) = network.nodes
    async with Receiver() as nonsense:
        nonsense.usual = Answer(body=body)
        network.nodes = (type(node)(chain.service.http, nonsense.url, None), node)
        assert (await follow(chain)).added == 1
    assert network.nodes[0].resting_until > 0


async def test_a_node_that_says_to_wait(chain: Chain) -> None:
    chain.gateway.answers = [Answer(429, headers={"retry-after": "7"})]
    run = await chain.run(chain.indexing())
    assert (run.ending, run.retry_in) == ("told_to_wait", pytest.approx(7, abs=1))
    # It is left alone as long, without a call.
    calls = len(chain.gateway.requests)
    assert (await chain.run(chain.indexing())).ending == "told_to_wait"
    assert len(chain.gateway.requests) == calls


def test_what_recurses_without_end_still_ends_in_an_error() -> None:
    """A library that comes with web3 lets it go on until the stack ends, and with it the process."""
    code = """
import sys
sys.setrecursionlimit(1234)
import handlers.blockchain.contracts
assert sys.getrecursionlimit() == 1234, sys.getrecursionlimit()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
