"""Flows: how a parent waits and is decided, and that every message may come twice, late, or to nobody."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import OutOfMemoryError

from daemon import codec
from daemon.flows.broker import FlowBroker, FlowJob
from daemon.flows.courier import LEASE_MS, Courier
from daemon.records import split_record
from tests.conftest import RedisServerFactory
from tests.lua.conftest import _client
from tests.lua.flow_state import COPIED_RESULT, TOKEN, Flows, result
from tests.lua.state import A, B
from tests.lua.test_events import events as events_of

HOUR = 3_600_000


@pytest.fixture
async def flows(redis_url: str) -> AsyncIterator[Flows]:
    redis = _client(redis_url)
    yield await Flows(redis).open()
    await redis.aclose()


def definition(n: int, depth: int, flow_job: FlowJob) -> bytes:
    job = flow_job.job
    return codec.encode([n, depth, job.id[1], [*job[:6], job.tail.decode()], flow_job.edges, list(flow_job.children)])


# ---------------------------------------------------------------- waiting and running


async def test_a_parent_waits_for_the_last_child_and_runs_with_their_results(flows: Flows) -> None:
    await flows.parent("b:1", "b:2")
    assert (await flows.band("a:p"), await flows.state("a:p")) == ("blocked", "w")
    assert not await flows.engines["a"].marked()
    await flows.end("b:1")
    await flows.deliver()
    assert (await flows.band("a:p"), await flows.pending("a:p")) == ("blocked", {"b:2"})
    await flows.end("b:2")
    assert await flows.band("a:p") == "blocked"
    await flows.deliver()
    assert (await flows.band("a:p"), await flows.state("a:p")) == ("ready", "r")
    assert await flows.kept("a:p") == {"b:1": '0 c ["send",1]', "b:2": '0 c ["send",1]'}
    (mine,) = await flows.engines["a"].claim()
    assert (mine.name, mine.claim.child) == ("p", b"")


async def test_a_released_parent_keeps_its_priority_and_its_turn(flows: Flows) -> None:
    root = flows.job("a:p", children=("b:1",), level=2, group="acme")
    assert await flows.brokers["a"].commit(TOKEN, "ab", root, 0, ())
    await flows.engines["a"].enqueue(flows.engines["a"].job("other", 3))
    await flows.make(flows.job("b:1", edges=("a:p fail",)))
    await flows.end("b:1")
    await flows.deliver()
    assert (await flows.engines["a"].look("p")).level == 2
    assert await flows.engines["a"].order() == ["p", "other"]


async def test_waiting_for_others_is_not_waiting_in_the_queue(flows: Flows) -> None:
    await flows.parent("b:1")
    begun = flows.now
    flows.advance(60_000)
    await flows.engines["b"].renew(A)
    await flows.end("b:1")
    await flows.deliver()
    (mine,) = await flows.engines["a"].claim()
    assert int(mine.stamp, 16) == begun + 60_000
    assert split_record(mine.claim.record or b"").function == "send"
    assert await flows.engines["a"].settle(mine.complete())
    assert (await flows.engines["a"].look("p")).indexes == {"completed"}


async def test_what_happens_is_told_as_events(flows: Flows) -> None:
    await flows.parent("b:1", "b:2")
    for name in ("b:1", "b:2"):
        await flows.end(name)
    await flows.deliver()
    flows.token = TOKEN[::-1]
    await flows.parent("b:3", name="a:death", rule="death")
    await flows.end("b:3")
    await flows.deliver()
    told = {name: await events_of(engine) for name, engine in flows.engines.items()}
    events = {name: [(event.kind, event.id, event.detail) for event in found] for name, found in told.items()}
    assert events["a"] == [
        ("enqueued", "a:p", "after 2 others"),
        ("unblocked", "a:p", ""),
        ("enqueued", "a:death", "after 1 other"),
        ("removed", "a:death", ""),
    ]
    assert [event[:2] for event in events["b"]][:2] == [("enqueued", "b:1"), ("enqueued", "b:2")]
    (minute,) = await flows.redis.keys("{a}:stats:m:*")
    assert await flows.redis.hget(minute, "enqueued") == b"2"


async def test_the_tick_says_that_it_wrote_to_the_outbox(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.engines["b"].enqueue("alone")
    one, alone = await flows.engines["b"].claim(wanted=2)
    assert not (await flows.engines["b"].settle(alone.complete())).told
    assert (await flows.engines["b"].settle(one.complete())).told
    assert len(await flows.told()) == 1


async def test_children_of_one_call_are_told_in_one_entry(flows: Flows) -> None:
    names = [f"b:{n}" for n in range(100)]
    await flows.parent(*names)
    mine = await flows.engines["b"].claim(wanted=100)
    await flows.engines["b"].settle(*(job.complete() for job in mine))
    assert await flows.redis.xlen("{b}:outbox") == 1
    await flows.deliver()
    assert await flows.band("a:p") == "ready"
    assert not await flows.redis.exists("{b}:outbox")


# ---------------------------------------------------------------- rules

FAILED = ("bury", "abort", "expire", "remove", "missing")


@pytest.mark.parametrize("how", FAILED)
@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [("fail", "f", None), ("ignore", "w", "r"), ("continue", "r", None), ("success", None, None), ("death", "r", None)],
)
async def test_what_a_childs_failure_does(
    flows: Flows, rule: str, before: str | None, after: str | None, how: str
) -> None:
    """One child of two ends badly; where the parent still waits, the other completes then."""
    await flows.commit("a:p", "b:1", "b:2")
    if how == "missing":
        await flows.make(flows.there("b:1", f"a:p {rule}"))
    else:
        await flows.make(flows.job("b:1", edges=(f"a:p {rule}",)))
        if how == "remove":
            assert await flows.engines["b"].remove("1") == ["removed"]
        else:
            await flows.end("b:1", how)
    await flows.make(flows.job("b:2", edges=(f"a:p {rule}",)))
    await flows.deliver()
    state = await flows.state("a:p")
    assert (state and state[0]) == before
    assert await flows.band("a:p") == {"w": "blocked", None: None}.get(before, "ready")
    if after:
        await flows.end("b:2")
        await flows.deliver()
        assert (await flows.state("a:p"), await flows.band("a:p")) == (after, "ready")


@pytest.mark.parametrize(
    ("rule", "state"), [("fail", "r"), ("ignore", "r"), ("continue", "r"), ("success", "r"), ("death", None)]
)
async def test_what_it_does_when_all_complete(flows: Flows, rule: str, state: str | None) -> None:
    await flows.parent("b:1", "b:2", rule=rule)
    for name in ("b:1", "b:2"):
        await flows.end(name)
        await flows.deliver()
    assert await flows.state("a:p") == state
    assert await flows.band("a:p") == (state and "ready")


async def test_a_parent_that_fails_is_handed_to_a_worker_with_the_reason(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.end("b:1", "bury")
    await flows.deliver()
    (mine,) = await flows.engines["a"].claim()
    assert mine.claim.child == b"b:1 failed: ValueError: boom"
    await flows.engines["a"].settle(mine.bury())
    # Sent back, it runs with the results there are.
    assert await flows.engines["a"].redrive("p") == ["retried"]
    (mine,) = await flows.engines["a"].claim()
    assert mine.claim.child == b""
    assert await flows.kept("a:p") == {"b:1": '0 b ["send",{"type":"ValueError","message":"boom","reason":"tries"}]'}


async def test_a_child_with_several_parents_tells_each_by_its_own_rule(flows: Flows) -> None:
    for name in ("a:fails", "a:runs", "b:goes"):
        flows.token = TOKEN[:-1] + name[2]
        await flows.commit(name, "b:1")
    edges = [
        f"{flows.id(n)}\t{r}\t0\t{TOKEN[:-1]}{n[2]}"
        for n, r in (("a:fails", "fail"), ("a:runs", "ignore"), ("b:goes", "success"))
    ]
    await flows.make(flows.job("b:1")._replace(edges="\n".join(edges)))
    await flows.end("b:1", "bury")
    await flows.deliver()
    states = [await flows.redis.hget(f"{{{n[0]}}}:flows", flows.id(n)) for n in ("a:fails", "a:runs", "b:goes")]
    assert [state and state[:1] for state in states] == [b"f", b"r", None]


async def test_a_long_result_is_not_copied(flows: Flows) -> None:
    await flows.parent("b:1")
    (mine,) = await flows.engines["b"].claim()
    await flows.engines["b"].settle(mine.complete(result('"' + COPIED_RESULT * "x" + '"')))
    await flows.deliver()
    assert await flows.kept("a:p") == {"b:1": '0 c ["send"]'}


# ---------------------------------------------------------------- repeated and late messages


async def test_a_repeated_commit_changes_nothing(flows: Flows) -> None:
    parts = (definition(0, 1, flows.job("b:1", edges=("a:p fail",))),)
    assert isinstance(await flows.commit("a:p", "b:1", definitions=parts), bytes)
    assert await flows.commit("a:p", "b:1", definitions=parts) == 1
    assert await flows.redis.llen(f"{{a}}:defs:{TOKEN}") == 1
    flows.token = TOKEN[::-1]
    assert await flows.commit("a:p", "b:2") == 0
    assert await flows.pending("a:p") == {"b:1"}


async def test_a_commit_that_comes_again_when_all_is_done_and_forgotten(flows: Flows) -> None:
    parts = (definition(0, 1, flows.job("b:1", edges=("a:p fail",))),)
    assert await flows.brokers["a"].stage(TOKEN, 0, parts)
    await flows.commit("a:p", "b:1", count=1)
    await flows.deliver()
    await flows.end("b:1")
    await flows.deliver()
    (mine,) = await flows.engines["a"].claim()
    await flows.engines["a"].settle(mine.complete(keep=0))
    assert await flows.brokers["a"].stage(TOKEN, 0, parts)
    assert await flows.commit("a:p", "b:1", count=1) == 1
    assert await flows.commit("a:p", "b:1", definitions=parts) == 1
    await flows.deliver()
    assert await flows.engines["a"].order() == []
    assert await flows.traces() == set()


async def test_a_flow_whose_root_exists_makes_nothing(flows: Flows) -> None:
    await flows.engines["a"].enqueue("p")
    assert await flows.commit("a:p", "b:1", definitions=(b"[0,", b"[1,")) == 0
    assert await flows.traces() == set()


async def test_a_child_is_made_once_however_often_its_creation_comes(flows: Flows) -> None:
    await flows.commit("a:p", "b:1")
    child = flows.job("b:1", edges=("a:p fail",))
    for _ in range(2):
        assert await flows.make(child) is False
    assert await flows.engines["b"].order() == ["1"]
    await flows.end("b:1")
    # It has ended; then it has been forgotten, too.
    assert await flows.make(child) is False
    assert await flows.engines["b"].remove("1") == ["removed"]
    assert await flows.make(child) is False
    assert await flows.engines["b"].order() == []
    assert len(await flows.told()) == 1
    await flows.deliver()
    assert await flows.make(child) is False
    assert await flows.engines["b"].order() == []


async def test_a_creation_that_was_read_long_ago_is_refused(flows: Flows) -> None:
    await flows.commit("a:p", "b:1")
    child = flows.job("b:1", edges=("a:p fail",))
    assert await flows.make(child, read_at=flows.now - HOUR) is False
    assert await flows.make(child, read_at=flows.now - HOUR - 1) is None
    # What was made is known for longer than such a creation is taken.
    await flows.brokers["b"].seal(TOKEN)
    assert 2 * HOUR >= await flows.redis.pttl(f"{{b}}:made:{TOKEN}") > 1.5 * HOUR


async def test_an_end_that_is_told_twice_counts_once(flows: Flows) -> None:
    await flows.parent("b:1", "b:2")
    await flows.end("b:1")
    told = await flows.told()
    for _ in range(3):
        await flows.brokers["a"].end(told)
    assert (await flows.pending("a:p"), await flows.band("a:p")) == ({"b:2"}, "blocked")
    await flows.end("b:2")
    told = await flows.told()
    await flows.brokers["a"].end(told)
    (mine,) = await flows.engines["a"].claim()
    # It runs, ends, and is forgotten: what is told then is for nobody.
    await flows.brokers["a"].end(told)
    await flows.engines["a"].settle(mine.complete(result("7")))
    await flows.brokers["a"].end(told)
    assert await flows.engines["a"].remove("p") == ["removed"]
    await flows.brokers["a"].end(told)
    assert await flows.engines["a"].order() == []
    await flows.deliver()
    assert await flows.traces() == set()


async def test_a_decided_parent_is_not_decided_again(flows: Flows) -> None:
    await flows.parent("b:1", "b:2", rule="continue")
    await flows.end("b:1", "bury")
    await flows.deliver()
    (mine,) = await flows.engines["a"].claim()
    await flows.end("b:2", "bury")
    await flows.deliver()
    assert (await flows.state("a:p"), await flows.band("a:p")) == ("r", "held")
    assert (await flows.kept("a:p")).keys() == {"b:1", "b:2"}
    await flows.engines["a"].settle(mine.complete())


async def test_a_child_that_is_sent_back_tells_its_new_end(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.end("b:1", "bury")
    first = await flows.told()
    await flows.deliver()
    assert await flows.engines["b"].redrive("1") == ["retried"]
    await flows.end("b:1")
    await flows.deliver()
    assert await flows.kept("a:p") == {"b:1": '0 c ["send",1]'}
    assert (await flows.state("a:p") or "").startswith("f ")
    # A courier that was stopped tells of the failure only now.
    await flows.brokers["a"].end(first)
    assert await flows.kept("a:p") == {"b:1": '0 c ["send",1]'}


async def test_a_failure_told_after_the_success_that_came_later_decides_nothing(flows: Flows) -> None:
    await flows.parent("b:1", "b:2")
    await flows.end("b:1", "bury")
    (failure,) = await flows.told()
    await flows.engines["b"].redrive("1")
    mine = {job.name: job for job in await flows.engines["b"].claim(wanted=2)}
    await flows.engines["b"].settle(mine["1"].complete(result()))
    await flows.brokers["a"].end((await flows.told())[1:])
    await flows.brokers["a"].end([failure])
    assert (await flows.state("a:p"), await flows.pending("a:p")) == ("w", {"b:2"})


async def test_a_callback_that_is_not_due_is_not_removed_once_its_id_is_another_jobs(flows: Flows) -> None:
    await flows.parent("b:1", rule="success")
    await flows.engines["a"].abort("p")
    await flows.redis.delete("arq:result:" + flows.id("a:p"))  # as when it expires
    await flows.engines["a"].enqueue("p")
    await flows.end("b:1", "bury")
    await flows.deliver()
    assert await flows.band("a:p") == "ready"


async def test_what_is_told_of_an_earlier_flow_does_not_count_for_a_job_of_the_same_id(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.end("b:1")
    old = await flows.told()
    await flows.engines["a"].remove("p")
    await flows.engines["b"].remove("1")
    flows.token = TOKEN[::-1]
    await flows.parent("b:1")
    await flows.brokers["a"].end(old)
    assert (await flows.pending("a:p"), await flows.band("a:p")) == ({"b:1"}, "blocked")
    await flows.end("b:1")
    await flows.deliver()
    assert await flows.band("a:p") == "ready"


# ---------------------------------------------------------------- jobs that are there


async def test_attached_to_a_live_job_it_waits_for_its_end(flows: Flows) -> None:
    await flows.engines["b"].enqueue("1")
    await flows.commit("a:p", "b:1")
    assert await flows.make(flows.there("b:1", "a:p fail")) is False
    assert await flows.make(flows.there("b:1", "a:p fail")) is False
    await flows.end("b:1")
    assert len(await flows.told()) == 1
    await flows.deliver()
    assert await flows.band("a:p") == "ready"


@pytest.mark.parametrize(("how", "kind"), [("complete", "c"), ("bury", "b"), ("abort", "a"), ("expire", "e")])
async def test_attached_to_an_ended_job_it_is_told_at_once(flows: Flows, how: str, kind: str) -> None:
    await flows.engines["b"].enqueue("1")
    await flows.end("b:1", how)
    await flows.commit("a:p", "b:1")
    assert await flows.make(flows.there("b:1", "a:p fail")) is True
    # Repeated when the job is gone, it is not told that there is none.
    assert await flows.make(flows.there("b:1", "a:p fail")) is False
    await flows.deliver()
    assert (await flows.state("a:p") or "")[0] == ("r" if kind == "c" else "f")
    assert (await flows.kept("a:p"))["b:1"].startswith(f"0 {kind} ")


async def test_attached_to_a_job_that_is_not_there_it_fails_and_says_so(flows: Flows) -> None:
    await flows.commit("a:p", "b:never")
    assert await flows.make(flows.there("b:never", "a:p fail")) is True
    await flows.deliver()
    assert await flows.state("a:p") == "f b:never is not there"
    assert await flows.redis.exists("{b}:parents") == 0


async def test_a_child_whose_id_is_taken_is_the_job_that_is_there(flows: Flows) -> None:
    await flows.engines["b"].enqueue(flows.engines["b"].job("1", body=b'["mine"]'))
    await flows.parent("b:1")
    seen = await flows.engines["b"].look("1")
    assert b"mine" in (seen.record or b"")
    await flows.end("b:1")
    await flows.deliver()
    assert await flows.band("a:p") == "ready"


async def test_attached_to_a_dead_letter_it_learns_of_a_later_success(flows: Flows) -> None:
    await flows.engines["b"].enqueue("1")
    await flows.end("b:1", "bury")
    await flows.commit("a:p", "b:1")
    await flows.make(flows.there("b:1", "a:p ignore"))
    await flows.deliver()
    assert await flows.engines["b"].redrive("1") == ["retried"]
    await flows.end("b:1")
    await flows.deliver()
    assert (await flows.kept("a:p"))["b:1"] == '0 c ["send",1]'


# ---------------------------------------------------------------- staged, nested, rolled forward


async def test_what_is_staged_and_never_committed_runs_nothing_and_is_gone_after_an_hour(flows: Flows) -> None:
    broker = flows.brokers["a"]
    parts = [definition(n, 1, flows.job(f"b:{n}", edges=("a:p fail",))) for n in range(3)]
    assert await broker.stage(TOKEN, 0, parts[:2])
    assert await broker.stage(TOKEN, 0, parts[:2]), "a repeat is known"
    assert await broker.stage(TOKEN, 2, parts[2:])
    key = f"{{a}}:defs:{TOKEN}"
    assert await flows.redis.llen(key) == 3
    assert 0 < await flows.redis.pttl(key) <= HOUR
    await flows.deliver()
    assert {k for k in await flows.traces() if not k.endswith(TOKEN)} == set()
    assert not await flows.redis.exists("{a}:outbox", "arq:{a}")
    assert not await flows.redis.exists("arq:{b}")
    # Its hour is over: what comes then is refused, and leaves nothing.
    await flows.redis.delete(key)
    assert not await broker.stage(TOKEN, 3, parts[:1])
    assert await flows.commit("a:p", "b:0", count=3) == -1
    assert await flows.band("a:p") is None
    assert await flows.traces() == set()


async def test_a_commit_makes_what_was_staged_last(flows: Flows) -> None:
    parts = [definition(n, 1, flows.job(f"b:{n}", edges=("a:p fail",))) for n in range(3)]
    assert await flows.brokers["a"].stage(TOKEN, 0, parts)
    assert isinstance(await flows.commit("a:p", "b:0", "b:1", "b:2", count=3), bytes)
    assert await flows.redis.pttl(f"{{a}}:defs:{TOKEN}") == -1
    await flows.deliver()
    assert await flows.engines["b"].order() == ["0", "1", "2"]
    assert await flows.traces() == {"{a}:flows", f"{{a}}:pending:{flows.id('a:p')}", "{b}:parents"}


def nested(flows: Flows) -> tuple[bytes, ...]:
    """A root in ``a``, a parent in ``b`` below it, and a child in ``a`` below that."""
    return (
        definition(0, 1, flows.job("b:mid", children=("a:leaf",), edges=("a:p fail",))),
        definition(1, 2, flows.job("a:leaf", edges=("b:mid fail",))),
    )


@pytest.mark.parametrize("dies_at", range(8))
async def test_a_courier_that_dies_anywhere_is_followed_by_another(flows: Flows, dies_at: int) -> None:
    """Every call of the one that dies is done, but its reply is lost: the next begins anew."""
    await flows.commit("a:p", "b:mid", definitions=nested(flows))
    await _dying(flows, dies_at)
    assert await flows.engines["a"].order() in (["p"], ["leaf", "p"])
    await flows.courier.make("a", TOKEN, "ab")
    for family in "ab":
        await flows.redis.delete(f"{{{family}}}:courier")
    await flows.deliver()
    assert await flows.band("b:mid") == "blocked"
    for name in ("a:leaf", "b:mid", "a:p"):
        await flows.end(name)
        await _dying(flows, dies_at % 3)
        for family in "ab":
            await flows.redis.delete(f"{{{family}}}:courier")
        await flows.deliver()
    assert await flows.engines["a"].order() == await flows.engines["b"].order() == []
    assert {await flows.engines[f].total("completed") for f in "ab"} == {2, 1}


async def _dying(flows: Flows, calls: int) -> None:
    """Run a courier that makes so many calls."""

    class Dead(Exception): ...

    left = calls
    run = FlowBroker.run

    async def mortal(self: FlowBroker, name: str, *args: object) -> object:
        nonlocal left
        reply = await run(self, name, *args)
        left -= 1
        if left < 0:
            raise Dead
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowBroker, "run", mortal)
        with contextlib.suppress(Dead):
            await flows.courier.sweep()


async def test_children_are_made_when_their_parents_have_been(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    await flows.commit("a:p", "b:mid", definitions=nested(flows))
    make, left = FlowBroker.make, {}

    async def watched(self: FlowBroker, token: str, read_at: int, jobs: list[FlowJob]) -> bool | None:
        left[jobs[0].job.id] = await flows.redis.llen(f"{{a}}:defs:{TOKEN}")
        return await make(self, token, read_at, jobs)

    monkeypatch.setattr(FlowBroker, "make", watched)
    await flows.deliver()
    assert left == {flows.id("b:mid"): 2, flows.id("a:leaf"): 1}, "the parent's was acknowledged first"


async def test_two_couriers_deliver_the_same_definitions_once(flows: Flows) -> None:
    parts = tuple(definition(n, 1, flows.job(f"b:{n}", edges=("a:p fail",))) for n in range(5))
    await flows.commit("a:p", *(f"b:{n}" for n in range(5)), definitions=parts)
    broker = flows.brokers["a"]
    assert await broker.trim(TOKEN, 0, 2) == 3
    assert await broker.trim(TOKEN, 0, 2) == 3, "the slower one removes nothing"
    assert await broker.trim(TOKEN, 2, 3) == 0


async def test_an_outbox_is_one_couriers_at_a_time_until_it_is_empty(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.end("b:1")
    broker = flows.brokers["b"]
    free, (entry,) = await broker.read_outbox("first", LEASE_MS, b"")
    assert free == 0
    busy, nothing = await broker.read_outbox("second", LEASE_MS, b"")
    assert 0 < busy <= LEASE_MS
    assert nothing == []
    assert await broker.read_outbox("first", LEASE_MS, entry.id) == (0, [])
    assert await broker.read_outbox("second", LEASE_MS, b"") == (0, [entry])


async def test_an_entry_nobody_can_read_holds_up_no_other(flows: Flows) -> None:
    await flows.parent("b:1", "b:2")
    await flows.redis.xadd("{b}:outbox", {"{b}:1": "what is this?"})
    await flows.redis.xadd("{b}:outbox", {"create": "it", "families": "b", "more": "?"})
    await flows.end("b:1")
    await flows.end("b:2")
    await flows.deliver()
    assert await flows.band("a:p") == "ready"
    assert await flows.redis.xlen("{b}:outbox") == 1


async def test_a_family_whose_parents_cannot_be_told_holds_up_no_other(flows: Flows) -> None:
    await flows.parent("b:1", name="b:near")
    flows.token = TOKEN[::-1]
    await flows.parent("b:2", name="a:far")
    await flows.redis.rename("{a}:flows", "{a}:aside")
    await flows.redis.set("{a}:flows", "no hash")
    await flows.end("b:1")
    await flows.end("b:2")
    await flows.courier.sweep()
    assert await flows.band("b:near") == "ready"
    assert await flows.redis.xlen("{b}:outbox") == 1
    await flows.redis.rename("{a}:aside", "{a}:flows")
    await flows.deliver()
    assert await flows.band("a:far") == "ready"


async def test_servers_whose_clocks_are_an_hour_apart_are_told_of(flows: Flows) -> None:
    await flows.commit("a:p", "b:mid", definitions=nested(flows))
    courier = flows.courier
    courier._broker("b").now = flows.now + 2 * HOUR
    await courier.sweep()
    # Nothing is lost by it, and it does not try for ever.
    assert await flows.redis.xlen("{a}:outbox") == 1
    await flows.courier.sweep()
    assert await flows.band("b:mid") == "blocked"


async def test_delayed_children_come_due(flows: Flows) -> None:
    await flows.commit("a:p", "b:1")
    await flows.make(flows.job("b:1", edges=("a:p fail",), delay=5000))
    assert await flows.engines["b"].marked(), "somebody has to look when it is due"
    assert await flows.engines["b"].claim() == []
    flows.advance(5000)
    await flows.end("b:1")
    await flows.deliver()
    assert await flows.band("a:p") == "ready"


# ---------------------------------------------------------------- what operators do


@pytest.mark.parametrize("how", ["abort", "remove"])
async def test_a_parent_that_is_taken_away_leaves_its_children_alone(flows: Flows, how: str) -> None:
    await flows.parent("b:1", "b:2")
    await flows.end("b:1")
    assert await getattr(flows.engines["a"], how)("p") in ("aborted", ["removed"])
    await flows.end("b:2")
    await flows.deliver()
    assert await flows.engines["a"].order() == []
    assert not await flows.redis.exists("{b}:outbox", "{b}:parents")


async def test_a_parent_taken_away_before_its_children_are_made_leaves_them_too(flows: Flows) -> None:
    await flows.commit("a:p", "b:mid", definitions=nested(flows))
    await flows.engines["a"].remove("p")
    await flows.deliver()
    assert await flows.band("b:mid") == "blocked"
    for name in ("a:leaf", "b:mid"):
        await flows.end(name)
        await flows.deliver()
    await flows.engines["a"].remove("leaf")
    await flows.engines["b"].remove("mid")
    assert await flows.traces() == set()


async def test_a_drain_takes_parents_before_their_children(flows: Flows) -> None:
    await flows.commit("a:p", "a:1", "a:2")
    await flows.make(*(flows.job(name, edges=("a:p fail",)) for name in ("a:1", "a:2")))
    for left in (["1", "2"], ["2"], []):
        assert await flows.engines["a"].broker.drain(1) == 1
        await flows.engines["a"].check()
        await flows.deliver()
        assert await flows.engines["a"].order() == left


async def test_a_drain_of_children_counts_as_their_failure(flows: Flows) -> None:
    await flows.parent("b:1", "b:2")
    assert await flows.engines["b"].broker.drain(500) == 2
    await flows.deliver()
    assert await flows.state("a:p") == "f b:1 was removed"


async def test_a_blocked_job_is_not_promoted_and_keeps_a_new_priority_for_later(flows: Flows) -> None:
    await flows.parent("b:1")
    broker = flows.engines["a"].broker
    assert await broker.promote([flows.id("a:p")]) == ["not_delayed"]
    assert await broker.reprioritize([flows.id("a:p")], 1) == ["changed"]
    assert await flows.band("a:p") == "blocked"
    await flows.end("b:1")
    await flows.deliver()
    assert (await flows.engines["a"].look("p")).level == 1


async def test_a_stock_client_may_abort_a_blocked_job(flows: Flows) -> None:
    await flows.parent("b:1", name="b:mid")
    engine = flows.engines["b"]
    await flows.redis.zadd(engine.keys.queue, {flows.id("b:mid"): 1})
    await flows.redis.zadd(flows.engines["b"].aborts, {flows.id("b:mid"): flows.now})
    claimed = {mine.name: mine for mine in await engine.claim(wanted=5)}
    assert (claimed["mid"].claim.aborted, claimed["1"].claim.aborted) == (b"1", b"0")
    await engine.settle(claimed["mid"].abort(), claimed["1"].complete(result()))
    await flows.deliver()
    assert await engine.order() == []
    assert (await engine.look("mid")).indexes == {"aborted"}


async def test_a_discarded_dead_letter_is_no_news_for_a_decided_parent(flows: Flows) -> None:
    await flows.parent("b:1", rule="ignore")
    await flows.end("b:1", "bury")
    await flows.deliver()
    before = await flows.kept("a:p")
    await flows.engines["b"].remove("1")
    await flows.deliver()
    assert await flows.kept("a:p") == before
    assert await flows.redis.exists("{b}:parents") == 0


async def test_renewal_and_reaping_leave_blocked_jobs_where_they_are(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.engines["a"].renew(A)
    assert await flows.band("a:p") == "blocked"
    await flows.engines["b"].claim()
    flows.engines["b"].n[B] = 0
    await flows.engines["b"].sync(B)
    await flows.engines["b"].pass_time(31_000, B)
    flows.engines["a"].advance(31_000)
    (mine,) = await flows.engines["b"].claim(B)
    assert mine.name == "1"
    await flows.engines["b"].settle(mine.complete(result()), session=B)
    await flows.courier.sweep()
    assert await flows.band("a:p") == "ready"


# ---------------------------------------------------------------- nothing is left


async def test_when_its_jobs_are_forgotten_nothing_of_a_flow_is_left(flows: Flows) -> None:
    await flows.commit("a:p", "b:mid", "b:dead", definitions=(
        *nested(flows), definition(2, 2, flows.job("b:dead", edges=("a:p ignore",))),
    ))  # fmt: skip
    await flows.deliver()
    await flows.end("b:dead", "bury")
    await flows.deliver()
    for name in ("a:leaf", "b:mid", "a:p"):
        await flows.end(name)
        await flows.deliver()
    for engine in flows.engines.values():
        engine.advance(1000)
        await engine.renew(A, age=10, dead_age=10)
    assert await flows.traces() == set()
    found = await flows.redis.keys("*")
    assert {
        k.decode() for k in found if b"p" in k.split(b":")[-1] or b"leaf" in k or b"mid" in k or b"dead" in k
    } == set()


async def test_a_job_whose_result_is_not_kept_leaves_nothing_as_a_parent(flows: Flows) -> None:
    await flows.parent("b:1")
    await flows.end("b:1")
    await flows.deliver()
    (mine,) = await flows.engines["a"].claim()
    await flows.engines["a"].settle(mine.complete(keep=0))
    assert await flows.traces() == set()


async def test_an_id_in_use_again_keeps_its_flow_when_the_old_result_is_trimmed(flows: Flows) -> None:
    await flows.engines["a"].enqueue("p")
    await flows.end("a:p")
    await flows.redis.delete("arq:result:" + flows.id("a:p"))  # as when it expires
    await flows.parent("b:1")
    flows.advance(1000)
    await flows.engines["a"].renew(A, age=10)
    assert (await flows.state("a:p"), await flows.pending("a:p")) == ("w", {"b:1"})


# ---------------------------------------------------------------- size and memory


async def test_ten_thousand_children_in_one_commit(flows: Flows) -> None:
    names = [f"b:{n}" for n in range(10_000)]
    await flows.commit("a:p", *names)
    assert len(await flows.pending("a:p")) == 10_000


async def test_on_a_full_server_ends_are_told_and_new_jobs_refused_whole(redis_server: RedisServerFactory) -> None:
    redis = _client(redis_server(maxmemory="100mb", maxmemory_policy="noeviction").url)
    flows = await Flows(redis).open()
    await flows.parent("b:1")
    flows.token = TOKEN[::-1]
    await flows.commit("a:q", "b:2", definitions=(definition(0, 1, flows.job("b:2", edges=("a:q fail",))),))
    (mine,) = await flows.engines["b"].claim()
    await redis.config_set("maxmemory", 1)
    await flows.engines["b"].settle(mine.complete(result()))
    with pytest.raises(OutOfMemoryError):
        await flows.brokers["a"].commit("f" * 16, "ab", flows.job("a:r", children=("b:3",)), 1, (b"[0,",))
    with pytest.raises(OutOfMemoryError):
        await flows.make(flows.job("b:4", edges=("a:q fail",)))
    await Courier(redis, "ab", flows.now).sweep()
    assert await flows.band("a:p") == "ready"
    await redis.config_set("maxmemory", 0)
    assert {key.decode() for key in await redis.keys("*")} & {"{a}:defs:" + "f" * 16, "arq:job:{b}:4"} == set()
    await flows.deliver()
    assert (await flows.engines["b"].order(), await redis.exists("{a}:outbox")) == (["2"], 0)
    await redis.aclose()
