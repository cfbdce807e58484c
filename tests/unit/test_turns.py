"""Turns of the families of a process at calling Redis."""

from __future__ import annotations

import asyncio

from daemon.claiming.turns import AT_ONCE, Turns


async def test_a_few_go_at_once_and_the_others_in_the_order_in_which_they_asked() -> None:
    turns = Turns(AT_ONCE + 1)
    taken = [await turns.take() for _ in range(AT_ONCE)]
    order: list[int] = []

    async def ask(number: int) -> None:
        turn = await turns.take()
        order.append(number)
        turn.end()

    asking = [asyncio.create_task(ask(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert turns.all_taken
    assert order == []
    taken[0].end()
    await asyncio.gather(*asking)
    assert order == [0, 1, 2]
    for turn in taken:
        turn.end()
    assert not turns.all_taken


async def test_a_turn_ends_once() -> None:
    turns = Turns(AT_ONCE + 1)
    taken = [await turns.take() for _ in range(AT_ONCE)]
    taken[0].end()
    taken[0].end()
    await turns.take()
    assert turns.all_taken


async def test_a_call_without_a_reply_holds_nobody_up() -> None:
    turns = Turns(AT_ONCE + 1)
    unanswered = [await turns.take() for _ in range(AT_ONCE)]
    async with asyncio.timeout(30):
        await turns.take()
    for turn in unanswered:
        # Its reply comes late: the turn has been given to another.
        turn.end()
