"""Flows through the producer, with workers of several families: what runs, in which order, with what results."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import ArqdError, InvalidJob, JobFailed, JobNotFound, RedisUnavailable
from daemon.family import Family
from daemon.flows import BatchHandle, Node, batch, chain, courier, node
from daemon.flows import plan as flow_plan
from daemon.flows.broker import FlowBroker
from daemon.flows.courier import Courier
from daemon.flows.plan import FlowPlan
from daemon.inspecting.explain import Reason
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload
from daemon.producer import JobHandle, Producer, SyncProducer
from tests.engine import eventually, in_state, make_family, run_burst, working

FAMILIES = ("a", "b", "c")


class Keyed(Payload, family="a", function="give"):
    value: int

    def dedup_key(self) -> str:
        return "key"


async def give(ctx: JobContext, job: Any = None) -> Any:
    return job


async def fail(ctx: JobContext) -> None:
    raise ValueError("cannot")


async def gather(ctx: JobContext) -> list[Any]:
    return [child.result for child in (await ctx.children()).values()]


async def tell(ctx: JobContext) -> dict[str, Any]:
    """What a parent sees of its children, by the names their ids end with."""
    return {child.id.partition(":")[2]: (child.state, child.error) for child in (await ctx.children()).values()}


async def add_one(ctx: JobContext) -> int:
    return int(await ctx.previous()) + 1


async def hold(ctx: JobContext) -> None:
    await asyncio.Event().wait()


def families(**values: Any) -> list[Family]:
    return [
        make_family(n, give, fail, gather, tell, add_one, hold, max_tries=1, max_jobs=20, **values) for n in FAMILIES
    ]


def made(function: str, family: str = "a", payload: Any = None, **options: Any) -> Node:
    return node(function, [] if payload is None else [payload], family=family, **options)


@asynccontextmanager
async def at_work(redis_url: str, **options: Any) -> AsyncIterator[None]:
    async with working(redis_url, *families(), **options):
        yield


async def blocked(job: JobHandle) -> bool:
    return await job.status() is JobState.BLOCKED


# ---------------------------------------------------------------- shapes


async def test_a_parent_gets_its_childrens_results_in_their_order(producer: Producer, redis_url: str) -> None:
    children = [made("give", FAMILIES[n % 3], n) for n in range(30)]
    async with at_work(redis_url):
        job = await producer.enqueue_flow(made("gather", children=children))
        assert job.created
        assert await job.result(30) == list(range(30))


async def test_a_chain_hands_results_on_across_families(producer: Producer, redis_url: str) -> None:
    steps = [made("give", "a", 1), *(made("add_one", FAMILIES[n % 3]) for n in range(12))]
    async with at_work(redis_url):
        job = await producer.enqueue_flow(chain(*steps))
        assert await job.result(30) == 13


async def test_steps_side_by_side_in_a_chain(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        steps = chain(
            made("give", "a", 5), [made("add_one", "b"), made("add_one", "c")], made("gather"), made("gather")
        )
        job = await producer.enqueue_flow(steps)
        assert await job.result(30) == [[6, 6]]


async def test_a_step_with_children_starts_as_a_whole(producer: Producer, redis_url: str) -> None:
    tree = made("gather", children=[made("add_one", "b"), made("gather", "c", children=[made("add_one", "a")])])
    async with at_work(redis_url):
        job = await producer.enqueue_flow(chain(made("give", "a", 1), tree))
        assert await job.result(30) == [2, [2]]


async def test_nested_trees_and_a_job_two_others_wait_for(producer: Producer, redis_url: str) -> None:
    shared = made("give", "c", 7)
    tree = made("gather", children=[made("gather", "b", children=[shared]), made("gather", "a", children=[shared])])
    async with at_work(redis_url):
        assert await (await producer.enqueue_flow(tree)).result(30) == [[7], [7]]
    async with Inspector.connect(redis_url, FAMILIES) as inspector:
        assert sum(stats.totals["completed"] for stats in await inspector.queues()) == 4


@pytest.mark.parametrize("rule", ["fail", "ignore", "continue"])
async def test_what_a_childs_failure_does(producer: Producer, redis_url: str, rule: Any) -> None:
    bad = made("fail", "b", rule=rule, job_id="bad")
    slow = made("hold", "c", job_id="slow")
    children = [bad, slow] if rule == "continue" else [bad, made("give", "c", job_id="good")]
    async with at_work(redis_url):
        job = await producer.enqueue_flow(made("tell", children=children))
        if rule == "fail":
            with pytest.raises(JobFailed, match="b:bad failed: ValueError: cannot") as failed:
                await job.result(30)
            assert (failed.value.type, failed.value.reason) == ("ChildFailed", "child")
            return
        error = {"type": "ValueError", "message": "cannot", "reason": "tries"}
        expected: dict[str, Any] = {"bad": ["failed", error]}
        if rule == "ignore":
            expected["good"] = ["completed", None]
        assert await job.result(30) == expected


async def test_a_dead_parent_sent_back_runs_with_the_results_there_are(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        job = await producer.enqueue_flow(
            made("tell", children=[made("fail", "b", job_id="bad"), made("give", "c", job_id="good")])
        )
        await in_state(job, JobState.FAILED)
        await in_state(producer.job("c:good"), JobState.COMPLETED)

        async def both_told() -> bool:
            return (await job.info()).children_left == 0

        await eventually(both_told)
        async with Control.connect(redis_url, FAMILIES) as control:
            assert await control.retry([job.id]) == {job.id: "retried"}
        assert {name: state for name, (state, _) in (await job.result(30)).items()} == {
            "bad": "failed",
            "good": "completed",
        }


# ---------------------------------------------------------------- batches


async def test_a_batch_that_succeeds(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        found = await producer.enqueue_flow(
            batch(
                [made("give", FAMILIES[n % 3], n) for n in range(5)],
                on_complete=made("gather", "a"),
                on_success=made("gather", "b"),
                on_death=made("gather", "c"),
            )
        )
        assert isinstance(found, BatchHandle)
        assert [job.created for job in found.jobs] == [True] * 5
        for callback in (found.on_complete, found.on_success):
            assert await callback.result(30) == list(range(5))
        with pytest.raises(JobNotFound):
            await found.on_death.result(30)
        status = await found.status()
        assert (status.total, status.pending, status.states) == (5, 0, {JobState.COMPLETED: 5})


async def test_a_batch_in_which_one_fails(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        jobs = [made("give", "b", 1), made("fail", "c"), chain(made("fail", "a"), made("give", "b"))]
        found = await producer.enqueue_flow(
            batch(jobs, on_complete=made("gather", "a"), on_success=made("gather", "b"), on_death=made("tell", "c"))
        )
        assert await found.on_complete.result(30) == [1, None, None]
        assert await found.on_death.result(30)
        with pytest.raises(JobNotFound):
            await found.on_success.result(30)
        assert (await found.status()).states == {JobState.COMPLETED: 1, JobState.FAILED: 2}


async def test_on_death_runs_at_once(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        jobs = [made("hold", "b"), made("fail", "c", job_id="bad")]
        found = await producer.enqueue_flow(batch(jobs, on_death=made("tell", "a")))
        assert list(await found.on_death.result(30)) == ["bad"]
        assert (await found.status()).pending == 1


async def test_a_batch_of_which_nothing_is_kept(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        found = await producer.enqueue_flow(batch([made("give", "b")], on_death=made("tell", "a")))
        with pytest.raises(JobNotFound):
            await found.on_death.result(30)
        with pytest.raises(JobNotFound, match="nothing is kept"):
            await found.status()


# ---------------------------------------------------------------- jobs that are there


async def test_depends_on_live_ended_and_unknown_jobs(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        first = await producer.enqueue("give", [1], family="b")
        await first.result(30)
        second = await producer.enqueue("give", [2], family="c", delay=0.2)
        job = await producer.enqueue("gather", [], family="a", depends_on=[first, second.id])
        assert await job.result(30) == [1, 2]
        with pytest.raises(JobFailed, match="c:never is not there"):
            await (await producer.enqueue("gather", [], family="a", depends_on=["c:never"])).result(30)
        held = await producer.enqueue("hold", [], family="b")
        waiting = await producer.enqueue("gather", [], family="a", depends_on=[held])
        assert await blocked(waiting)
        assert await held.abort()
        with pytest.raises(JobFailed, match="was aborted"):
            await waiting.result(30)


async def test_a_job_of_a_flow_may_depend_on_another_one(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        first = await producer.enqueue("give", [1], family="b")
        child = made("gather", "c", depends_on=[first])
        assert await (await producer.enqueue_flow(made("gather", children=[child]))).result(30) == [[1]]


async def test_a_flow_with_an_id_that_is_taken_is_not_made(producer: Producer) -> None:
    await producer.enqueue("give", [1], family="a", job_id="nightly")
    job = await producer.enqueue_flow(made("gather", children=[made("give", "b")], job_id="nightly"))
    assert (job.created, job.id) == (False, "a:nightly")
    async with Inspector(producer.redis, FAMILIES) as inspector:
        assert (await inspector.queue("b")).waiting == 0


# ---------------------------------------------------------------- refused

WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: made("give", rule="maybe"), "rule 'maybe' is not one of fail, ignore, continue"),
    (lambda: made("give", children=["b:1"]), "str is no job of a flow"),
    (lambda: made("give"), "enqueue one alone with enqueue"),
    (lambda: "email", "str is no flow"),
    (lambda: chain(), "a chain ends with one job"),
    (lambda: chain(made("give"), []), "at least one"),
    (lambda: chain(made("give"), [made("give"), made("give")]), "a chain ends with one job"),
    (lambda: batch([], on_complete=made("give")), "at least one job"),
    (lambda: batch([made("give")]), "on_complete"),
    (lambda: made("give", children=[made("give")], delay=5), "leave delay and run_at out"),
    (lambda: made("give", children=[made("give", dedup_key="k")]), "no dedup key"),
    (lambda: made("give", children=[Keyed(value=1)]), "dedup_key=''"),
    (lambda: made("give", children=[made("give", job_id="x"), made("give", job_id="x")]), "a:x is twice"),
    (lambda: made("give", children=[(one := made("give")), one]), "the same child twice"),
    (lambda: made("give", children=[made("give")], depends_on=["b"]), "names no family"),
    (lambda: made("give", depends_on=[7]), "depends_on takes ids"),
    (lambda: made("give", depends_on="b:1"), "is not a list"),
    (lambda: made("give", depends_on=7), "is not a list"),
    (lambda: made("give", depends_on=["b:1\t2"]), "not plain text"),
    (lambda: made("give", depends_on=["B b:1"]), "must match"),
    (lambda: made("give", job_id="x", children=[made("give", "b", depends_on=["a:x"])]), "its own flow"),
    (lambda: made("give", children=[made("give", max_tries=0)]), "max_tries"),
    (lambda: made("give", children=[made("give", frequency=1)]), "unknown options"),
    (lambda: made("give", children=[made("give") for _ in range(10_001)]), "make it a tree"),
]


@pytest.mark.parametrize(("flow", "message"), WRONG, ids=[message for _, message in WRONG])
async def test_what_is_wrong_is_refused_and_nothing_is_written(producer: Producer, flow: Any, message: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        await producer.enqueue_flow(flow())
    assert message in str(refused.value)
    assert await producer.redis.keys("*") == []


async def test_depends_on_belongs_to_one_job(producer: Producer) -> None:
    with pytest.raises(InvalidJob, match="use enqueue for it"):
        await producer.enqueue_many("give", [{}], family="a", depends_on=["a:x"])
    with pytest.raises(InvalidJob, match="unknown options"):
        producer.template("t", depends_on=["a:x"])


async def test_a_payload_with_a_key_of_its_own_goes_without_it(producer: Producer, redis_url: str) -> None:
    flow = made("gather", children=[node(Keyed(value=3), dedup_key="")])
    async with at_work(redis_url):
        assert await (await producer.enqueue_flow(flow)).result(30) == [{"value": 3}]


# ---------------------------------------------------------------- size, and who dies


async def test_ten_thousand_children_under_one_parent(producer: Producer, redis_url: str) -> None:
    flow = made("gather", children=[made("give", FAMILIES[n % 3], n) for n in range(10_000)])
    begin = time.perf_counter()
    job = await producer.enqueue_flow(flow)
    handed_over = time.perf_counter() - begin
    assert await producer.redis.keys("*:defs:*") == []
    async with Inspector.connect(redis_url, FAMILIES) as inspector:
        tree = await inspector.flow(job.id, limit=100)
        assert (len(tree.children), tree.more, tree.left) == (99, 9901, 10_000)
    async with at_work(redis_url):
        assert await job.result(50) == list(range(10_000))
    print(f"\nhanded over in {handed_over:.2f} s, done after {time.perf_counter() - begin:.2f} s")


async def test_a_producer_that_dies_while_staging_leaves_nothing_that_runs(
    producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: Any) -> int:
        raise asyncio.CancelledError

    monkeypatch.setattr(FlowBroker, "commit", dies)
    children = [made("give", FAMILIES[n % 3], n) for n in range(2500)]
    with pytest.raises(asyncio.CancelledError):
        await producer.enqueue_flow(made("gather", children=children))
    (left,) = await producer.redis.keys("{*}:*")
    assert await producer.redis.llen(left) == 2500
    assert 0 < await producer.redis.ttl(left) <= 3600
    await run_burst(redis_url, *families())
    async with Inspector(producer.redis, FAMILIES) as inspector:
        assert all(not stats.totals and not stats.waiting for stats in await inspector.queues())


async def test_a_producer_that_dies_after_the_commit_is_followed_by_the_workers(
    producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        async def dies(*_: Any) -> set[str]:
            raise asyncio.CancelledError

        patch.setattr(Courier, "make", dies)
        with pytest.raises(asyncio.CancelledError):
            await producer.enqueue_flow(
                made("gather", job_id="root", children=[made("give", "b", 1), made("give", "c", 2)])
            )
    job = producer.job("a:root")
    assert await blocked(job)
    async with at_work(redis_url):
        assert await job.result(30) == [1, 2]


async def test_a_lost_reply_of_the_commit(producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, calls = FlowBroker.commit, 0

    async def loses_one(self: FlowBroker, *args: Any) -> Any:
        nonlocal calls
        found = await commit(self, *args)
        calls += 1
        if calls == 1:
            raise ConnectionError("lost")
        return found

    monkeypatch.setattr(FlowBroker, "commit", loses_one)
    job = await producer.enqueue_flow(made("gather", children=[made("give", "b", 1)]))
    assert job.created
    assert await producer.redis.exists("{a}:outbox") == 0
    async with at_work(redis_url):
        assert await job.result(30) == [1]


async def test_redis_lost_after_the_commit_is_no_error(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: Any) -> set[str]:
        raise ConnectionError("lost")

    monkeypatch.setattr(Courier, "make", lost)
    assert (await producer.enqueue_flow(made("gather", children=[made("give", "b", 1)]))).created
    monkeypatch.setattr(FlowBroker, "commit", lost)
    with pytest.raises(RedisUnavailable):
        await producer.enqueue_flow(made("gather", children=[made("give", "b", 1)]))


async def test_what_was_staged_too_long_ago(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = FlowBroker.commit

    async def late(self: FlowBroker, token: str, *args: Any) -> Any:
        await self.redis.delete(self.keys.key("defs", token))
        return await commit(self, token, *args)

    monkeypatch.setattr(FlowBroker, "commit", late)
    monkeypatch.setattr(flow_plan, "ENQUEUE_JOBS", 10)
    with pytest.raises(ArqdError, match="more than an hour ago"):
        await producer.enqueue_flow(made("gather", children=[made("give", "b", n) for n in range(25)]))
    assert await producer.redis.keys("{*}:*") == []


async def test_the_leader_of_the_schedules_looks_after_families_without_workers(
    producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root's family has no worker, and its producer dies after the commit: the worker of another leads."""
    with monkeypatch.context() as patch:

        async def dies(*_: Any) -> set[str]:
            raise asyncio.CancelledError

        patch.setattr(Courier, "make", dies)
        with pytest.raises(asyncio.CancelledError):
            await producer.enqueue_flow(made("gather", job_id="root", children=[made("give", "b", 1)]))
    job = producer.job("a:root")
    async with working(redis_url, families()[1]):

        async def released() -> bool:
            return await job.status() is JobState.WAITING

        await eventually(released)
    assert await Courier(producer.redis, FAMILIES).sweep() == courier.SWEEP_SECONDS


async def test_a_burst_ends_when_the_parent_has_run(producer: Producer, redis_url: str) -> None:
    job = await producer.enqueue_flow(chain(made("give", "a", 1), made("add_one", "a"), made("add_one", "a")))
    await run_burst(redis_url, families()[0])
    assert await job.result(30) == 3


async def test_a_long_result_is_read_from_the_child_itself(producer: Producer, redis_url: str) -> None:
    text = "x" * 70_000
    async with at_work(redis_url):
        long = made("give", "b", text, job_id="long")
        assert await (await producer.enqueue_flow(made("gather", children=[long]))).result(30) == [text]
        held = made(
            "tell",
            job_id="later",
            children=[made("give", "c", text, job_id="gone"), made("hold", "b", job_id="held", rule="ignore")],
        )
        job = await producer.enqueue_flow(held)
        await in_state(producer.job("c:gone"), JobState.COMPLETED)
        async with Control.connect(redis_url, FAMILIES) as control:
            await control.remove(["c:gone"])
            await in_state(producer.job("b:held"), JobState.ACTIVE)
            await control.abort(["b:held"])
        state, error = (await job.result(30))["gone"]
        assert (state, error["type"]) == ("completed", "ResultGone")


async def test_previous_is_for_one_step(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        job = await producer.enqueue_flow(made("add_one", children=[made("give", "b", 1), made("give", "b", 2)]))
        with pytest.raises(JobFailed, match="had 2 jobs before it"):
            await job.result(30)


# ---------------------------------------------------------------- looking


async def test_states_counts_and_explanations(producer: Producer, redis_url: str) -> None:
    children = [made("give", "b", job_id="one"), made("hold", "b", job_id="two"), made("hold", "c", job_id="three")]
    job = await producer.enqueue_flow(made("gather", children=children, job_id="root", tags=["night"]))
    async with Inspector.connect(redis_url, FAMILIES) as inspector:
        why = await inspector.explain("a:root")
        assert (why.state, why.reason) == (JobState.BLOCKED, Reason.BLOCKED)
        assert why.message == "It waits for its children b:one, b:two, c:three; 0 of 3 have ended."
        assert why.since is not None
        async with working(redis_url, families()[1]):

            async def one_told() -> bool:
                return (await job.info()).children_left == 2

            await eventually(one_told)
            assert (await inspector.explain("a:root")).message == (
                "It waits for its children b:two, c:three; 1 of 3 has ended."
            )
        info = await inspector.job("a:root")
        assert (info.state, info.children, info.children_left, info.parents) == (JobState.BLOCKED, 3, 2, [])
        assert (await inspector.job("b:two")).parents == ["a:root"]
        stats = await inspector.queue("a")
        assert (stats.blocked, stats.waiting, stats.delayed, stats.active) == (1, 0, 0, 0)
        assert (await inspector.backlog("a"))["load"] == 0
        assert [found.id for found in await inspector.jobs("a", "blocked")] == ["a:root"]
        assert await inspector.jobs("a", "waiting") == []
        tree = await inspector.flow("a:root")
        assert [(n.id, n.state) for n in tree.children] == [
            ("b:one", JobState.COMPLETED),
            ("b:two", JobState.WAITING),
            ("c:three", JobState.WAITING),
        ]
        with pytest.raises(JobNotFound):
            await inspector.flow("a:never")
    async with Control.connect(redis_url, FAMILIES) as control:
        assert await control.drain("a", dry_run=True) == 1
        assert await control.drain("a") == 1
        assert await control.abort(["b:two"]) == {"b:two": "aborted"}


async def test_a_failed_child_in_the_explanation_of_its_parent(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        job = await producer.enqueue_flow(made("gather", children=[made("fail", "b", job_id="bad")]))
        await in_state(job, JobState.FAILED)
    async with Inspector.connect(redis_url, FAMILIES) as inspector:
        message = (await inspector.explain(job.id)).message
    assert "a job it waited for failed (ChildFailed: b:bad failed: ValueError: cannot)" in message


def test_flow_command(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_FAMILIES__A", "tests.integration.cli_family:WorkerSettings")
    inner = made("gather", "b", job_id="inner", children=[made("give", "c", job_id="leaf")])
    with SyncProducer.connect(redis_url) as producer:
        producer.enqueue_flow(made("gather", job_id="root", children=[inner, made("give", "b", job_id="other")]))
    assert main(["flow", "a:root"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a:root gather blocked",
        "├─ b:inner gather blocked",
        "│  └─ c:leaf give waiting",
        "└─ b:other give waiting",
    ]
    assert main(["flow", "a:root", "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a:root gather blocked",
        "├─ b:inner gather blocked",
        "│  └─ 1 more",
        "└─ 1 more",
    ]
    assert main(["flow", "a:root", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [child["id"] for child in found["children"]] == ["b:inner", "b:other"]
    assert main(["flow", "a:never"]) == 1
    assert (
        capsys.readouterr().err == "arqd: there is no job a:never: it never existed, or its record has been removed\n"
    )
    assert main(["jobs", "a", "--state", "blocked"]) == 0
    assert "a:root" in capsys.readouterr().out
    assert main(["enqueue", "give", "--family", "c", "--depends-on", "a:root"]) == 0
    assert main(["explain", capsys.readouterr().out.strip()]) == 0
    assert capsys.readouterr().out == "blocked: It waits for its children a:root; 0 of 1 have ended.\n"


async def test_the_same_without_await(redis_url: str) -> None:
    def hand_over() -> Any:
        with SyncProducer.connect(redis_url) as producer:
            first = producer.enqueue("give", [1], family="b")
            second = producer.enqueue("gather", [], family="c", depends_on=[first])
            root = producer.enqueue_flow(made("gather", children=[made("give", "b", 2)]))
            found = producer.enqueue_flow(batch([made("give", "b", 3)], on_complete=made("gather")))
            results = [job.result(30) for job in (second, root, found.on_complete)]
            return [*results, found.status().total, found.on_death, found.jobs[0].result(30)]

    async with at_work(redis_url):
        assert await asyncio.to_thread(hand_over) == [[1], [2], [3], 1, None, 3]


# ---------------------------------------------------------------- what is left


async def test_no_key_of_a_flow_is_left_when_its_jobs_are_gone(producer: Producer, redis_url: str) -> None:
    async with at_work(redis_url):
        tree = made(
            "gather", children=[made("gather", "b", children=[made("give", "c", 1)]), made("fail", "c", rule="ignore")]
        )
        await (await producer.enqueue_flow(tree)).result(30)
        found = await producer.enqueue_flow(
            batch([made("give", "b")], on_complete=made("give"), on_death=made("give", "c"))
        )
        await found.on_complete.result(30)
        async with Control.connect(redis_url, FAMILIES) as control:
            for family in FAMILIES:
                await control.clear(family)

        async def only_what_expires() -> bool:
            keys = [
                key for key in await producer.redis.keys("*") if b"}:flow" in key or b"}:p" in key or b"}:child" in key
            ]
            keys += await producer.redis.keys("*outbox*") + await producer.redis.keys("*defs*")
            lasting = [key for key in await producer.redis.keys("*made*") if await producer.redis.ttl(key) < 0]
            return not keys + lasting

        await eventually(only_what_expires)


def test_the_plan_puts_parents_before_children() -> None:
    """Whatever the shape: a child must not end before its parent is there."""
    leaf = made("give", "c")
    shallow = made("give", "b", children=[leaf])
    deep = made("give", "b", children=[made("give", "a", children=[made("give", "c", children=[leaf])])])
    plan = FlowPlan(Producer(None), [made("give", children=[shallow, deep])], {})
    depths = [json.loads(definition)[1] for definition in plan.definitions]
    assert depths == sorted(depths)
    assert plan.job(leaf).depth == 4
    assert plan.families == ["a", "b", "c"]
