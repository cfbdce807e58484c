"""Queues, dead letters and schedules through the API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.family import func
from daemon.payload import Payload
from tests.asking import FUNCTIONS, Ask, Plain
from tests.console.support import API, Console, console
from tests.engine import eventually, make_family, run_burst, working


async def prepare(found: Console, url: str, *, dead: int = 0, waiting: int = 0, completed: int = 0) -> None:
    """Put jobs of these states into the queue ``t``."""
    producer = found.services.producer
    await producer.enqueue_many([Ask(question="q", fail=f"no {n}") for n in range(dead)], max_tries=1)
    await producer.enqueue_many([Plain(n=n) for n in range(completed)])
    await run_burst(url, make_family("t", *FUNCTIONS))
    await producer.enqueue_many([Plain(n=n) for n in range(waiting)])


async def actions(found: Console) -> list[tuple[str, str]]:
    return [(e.action, e.target) for e in reversed((await found.services.audit.page()).entries)]


async def test_counts_and_figures(redis_url: str) -> None:
    async with console(redis_url) as found:
        await prepare(found, redis_url, dead=2, waiting=3, completed=4)
        client = await found.of("viewer")
        queue = (await client.get(f"{API}/queues/t")).json()
        assert {name: queue["stats"][name] for name in ("waiting", "completed", "failed", "paused")} == {
            "waiting": 3, "completed": 4, "failed": 2, "paused": False,
        }  # fmt: skip
        assert (queue["hour"]["completed"], queue["hour"]["failed"], queue["hour"]["enqueued"]) == (4, 2, 9)
        assert queue["hour"]["p95_run"] > 0
        assert queue["hour"]["mean_wait"] >= 0
        (listed,) = (await client.get(f"{API}/queues")).json()
        assert listed["stats"]["failed"] == 2
        stats = (await client.get(f"{API}/queues/t/stats", params={"last": "2h", "function": "ask"})).json()
        assert (stats["total"]["failed"], stats["step"]) == (2, "minute")


async def test_health_says_what_is_wrong(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        url, bare = f"{API}/queues/t/health", found.anyone
        assert (await client.get(url)).json()["status"] == "ok"
        await prepare(found, redis_url, dead=10, completed=45, waiting=2)
        await client.post(f"{API}/queues/t/pause")
        health = (await client.get(url)).json()
        assert (health["status"], health["waiting"], health["failed"]) == ("degraded", 2, 10)
        assert health["reasons"] == [
            "it is paused",
            "2 jobs wait and no worker is there",
            "10 of the 55 jobs that ended in the last hour failed",
        ]
        system = await client.get(f"{API}/health")
        assert (system.status_code, system.json()["status"], system.json()["paused"]) == (200, "degraded", 1)
        assert [each["family"] for each in system.json()["details"]] == ["t"]
        assert (await bare.get(f"{API}/health")).json() == {"status": "degraded"}


async def test_pausing_draining_cleaning_clearing(redis_url: str) -> None:
    async with console(redis_url) as found:
        await prepare(found, redis_url, dead=2, waiting=3, completed=4)
        client = await found.of("operator")

        async def post(path: str, **body: Any) -> Any:
            answer = await client.post(f"{API}/queues/{path}", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert await post("t/pause") == {"t": True}
        assert await post("pause") == {"t": False}
        assert await post("resume") == {"t": True}
        assert await post("t/resume") == {"t": False}
        counted = {"dry_run": True, "families": {"t": {"drained": 3}}, "away": []}
        assert await post("t/drain", dry_run=True) == await post("drain", dry_run=True) == counted
        assert (await post("t/clean", count=1))["families"] == {"t": {"completed": 1}}
        assert (await post("clean", state="failed", older_than="1h"))["families"] == {"t": {"failed": 0}}
        assert (await post("t/retry", error="TypeError", dry_run=True))["families"] == {"t": {"retried": 0}}
        assert (await post("t/retry", error="ValueError"))["families"] == {"t": {"retried": 2}}
        cleared = {"drained": 5, "completed": 3, "failed": 0, "aborted": 0, "expired": 0}
        assert (await post("t/clear", dry_run=True))["families"] == {"t": cleared}
        assert (await post("t/clear"))["families"] == {"t": cleared}
        assert (await client.post(f"{API}/queues/none/drain")).status_code == 404
        assert (await client.post(f"{API}/queues/t/clean", json={"state": "active"})).status_code == 422
        # Counting is no change.
        assert [action for action, _ in await actions(found)] == [
            "queue.pause", "queue.pause", "queue.resume", "queue.resume", "queue.clean", "queue.clean", "dead.retry",
            "queue.clear",
        ]  # fmt: skip


async def test_limits_change_while_it_runs(redis_url: str) -> None:
    async with console(redis_url) as found:
        client, url = await found.of("operator"), f"{API}/queues/t/limits"
        told = (await client.put(url, json={"rate": "50/s", "concurrency": 3})).json()
        assert told["limits"] == [
            {"scope": "queue", "name": None, "source": "operator", "concurrency": 3, "rate": "50/1s"}
        ]
        told = (await client.put(url, json={"group": "acme", "concurrency": "2", "weight": 4})).json()
        assert (told["limits"][1]["name"], told["weights"]) == ("acme", {"acme": 4})
        assert (await client.get(url)).json() == told
        told = (await client.put(url, json={"group": "ordered:*", "concurrency": 1})).json()
        kind = {"scope": "group", "name": "ordered:*", "source": "operator", "concurrency": 1, "rate": "none"}
        assert kind in told["limits"]
        assert kind not in (await client.put(url, json={"group": "ordered:*", "reset": True})).json()["limits"]
        assert len((await client.put(url, json={"reset": True})).json()["limits"]) == 1
        wrongs: list[dict[str, Any]] = [
            {},
            {"rate": None, "concurrency": None},
            {"group": "a", "weight": None},
            {"reset": False},
            {"rate": "fast"},
            {"group": "a", "function": "b", "rate": "1/s"},
            {"weight": 2},
            {"group": "ordered:*", "weight": 2},
            {"reset": True, "rate": "1/s"},
            {"concurrency": "many"},
            {"group": "a", "max_bytes": "1MB"},
        ]
        for wrong in wrongs:
            answer = await client.put(url, json=wrong)
            assert answer.status_code == 422, wrong
        assert ("queue.limits", "t") in await actions(found)


async def later(ctx: JobContext) -> None: ...


async def test_a_limit_of_a_function_that_nobody_has_is_told_as_such(redis_url: str) -> None:
    family = make_family("t", later)
    async with console(redis_url) as found:
        client, url = await found.of("operator"), f"{API}/queues/t/limits"

        async def warnings(function: str) -> list[str]:
            answer = await client.put(url, json={"function": function, "rate": "5/s"})
            assert answer.status_code == 200, answer.text
            told: list[str] = answer.json()["warnings"]
            assert (await client.get(url)).json()["warnings"] == told
            return told

        assert await warnings("ask") == await warnings("*") == []
        (told,) = await warnings("later")
        assert told.startswith("t has no function 'later': its limit counts once a worker has one (known are ask, ")
        # A worker of another release may have it.
        async with working(redis_url, family):
            assert (await client.get(url)).json()["warnings"] == []
            (told,) = await warnings("akk")
            assert told.startswith("t has no function 'akk'")
        await client.put(url, json={"function": "akk", "reset": True})
        assert [text[:25] for text in (await client.get(url)).json()["warnings"]] == ["t has no function 'later'"]


# ---------------------------------------------------------------------- dead letters


class Burn(Payload, family="u"):
    n: int


async def burn(ctx: JobContext, job: Burn) -> None:
    raise KeyError(job.n)


async def test_dead_letters_of_all_families_have_pages(redis_url: str) -> None:
    other = make_family("u", burn)
    async with console(redis_url, make_family("t", *FUNCTIONS), other) as found:
        await prepare(found, redis_url, dead=3)
        await found.services.producer.enqueue_many([Burn(n=n) for n in range(3)], max_tries=1)
        await run_burst(redis_url, other)
        client = await found.of("operator")
        seen, cursor, pages = [], None, 0
        while pages == 0 or cursor:
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await client.get(f"{API}/dead", params=query)).json()
            seen += [job["family"] for job in page["jobs"]]
            cursor, pages = page["cursor"], pages + 1
        assert (seen, pages) == (["t"] * 3 + ["u"] * 3, 3)
        assert (await client.get(f"{API}/dead", params={"cursor": "none/"})).status_code == 422
        assert len((await client.get(f"{API}/dead", params={"family": "u"})).json()["jobs"]) == 3

        groups = (await client.get(f"{API}/dead/groups")).json()
        assert sorted((g["family"], g["type"], g["count"]) for g in groups) == [
            ("t", "ValueError", 3), ("u", "KeyError", 3),
        ]  # fmt: skip
        cause = next(g["id"] for g in groups if g["family"] == "u")
        assert len((await client.get(f"{API}/dead", params={"cause": cause})).json()["jobs"]) == 3
        assert (await client.get(f"{API}/dead", params={"cause": "0123456789"})).status_code == 404
        assert (await client.get(f"{API}/dead/groups", params={"family": "none"})).status_code == 404

        counted = await client.post(f"{API}/dead/discard", json={"dry_run": True})
        assert counted.json()["families"] == {"t": {"discarded": 3}, "u": {"discarded": 3}}
        done = await client.post(f"{API}/dead/discard", json={"cause": cause})
        assert done.json()["families"] == {"u": {"discarded": 3}}
        ids = [job["id"] for job in (await client.get(f"{API}/dead")).json()["jobs"]]
        for path, word in (("retry", "retried"), ("discard", "discarded")):
            done = await client.post(f"{API}/dead/{path}", json={"ids": [ids[0], "t:none"], "dry_run": True})
            assert done.status_code == 200, done.text
            assert (done.json()["dry_run"], done.json()["outcomes"]) == (True, {ids[0]: word, "t:none": "not_found"})
        assert [job["id"] for job in (await client.get(f"{API}/dead")).json()["jobs"]] == ids
        assert len([action for action, _ in await actions(found)]) == 1
        done = await client.post(f"{API}/dead/retry", json={"ids": [ids[0], "t:none"]})
        assert done.json()["outcomes"] == {ids[0]: "retried", "t:none": "not_found"}
        done = await client.post(f"{API}/dead/discard", json={"ids": ids[1:2]})
        assert done.json()["outcomes"] == {ids[1]: "discarded"}
        done = await client.post(f"{API}/dead/retry", json={"family": "t"})
        assert (done.status_code, done.json()["families"]) == (200, {"t": {"retried": 1}})
        wrong = await client.post(f"{API}/dead/retry", json={"ids": ids, "family": "t"})
        assert (wrong.status_code, "give ids, or a family and a filter" in wrong.text) == (422, True)


async def test_a_redrive_with_canaries_runs_beside_requests(redis_url: str) -> None:
    healed = False

    async def ask(ctx: JobContext, job: Ask) -> str:
        if not healed:
            raise ValueError(job.fail or "")
        return "done"

    family = make_family("t", ask)
    async with console(redis_url, family) as found:
        await found.services.producer.enqueue_many([Ask(question="q", fail=str(n)) for n in range(20)], max_tries=1)
        await run_burst(redis_url, family)
        client = await found.of("operator")
        counted = (await client.post(f"{API}/dead/retry", json={"canaries": 2, "dry_run": True})).json()
        assert [group["found"] for group in counted["redrives"][0]["groups"]] == [20]
        idle = await client.post(f"{API}/dead/retry", json={"canaries": 2})
        assert (idle.status_code, "has no worker" in idle.json()["detail"]) == (409, True)

        async def state() -> Any:
            return (await client.get(f"{API}/dead/redrives")).json()[0]

        async def ended() -> Any:
            return None if (await state())["state"] == "running" else await state()

        async with working(redis_url, family):
            begun = await client.post(f"{API}/dead/retry", json={"family": "t", "canaries": 2, "rate": None})
            assert begun.status_code == 202
            stopped = await eventually(ended)
            assert (stopped["state"], stopped["groups"][0]["left"]) == ("stopped", 18)
            healed = True
            assert (await client.post(f"{API}/dead/retry", json={"canaries": 2, "rate": None})).status_code == 202
            done = await eventually(ended)
            assert (done["state"], done["groups"][0]["retried"], done["by"]) == ("done", 20, "test-operator")
        assert (await client.delete(f"{API}/dead/redrives/none")).status_code == 404
        assert (await client.delete(f"{API}/dead/redrives/{done['id']}")).json()["state"] == "done"
        told = [e.detail["retried"] for e in (await found.services.audit.page()).entries if e.action == "dead.redrive"]
        assert told == [20, 2]
        assert (await client.post(f"{API}/dead/retry", json={"canaries": 2})).status_code == 200


async def test_a_redrive_can_be_stopped(redis_url: str) -> None:
    async def endless(ctx: JobContext, job: Ask) -> None:
        await asyncio.Event().wait()

    # The canary does not end, so that nothing but the request can stop what waits for it.
    family = make_family("t", func(endless, name="ask"))
    async with console(redis_url, family) as found:
        await prepare(found, redis_url, dead=50)
        client = await found.of("operator")
        async with working(redis_url, family):
            asked = {"canaries": 1}
            (begun,) = (await client.post(f"{API}/dead/retry", json=asked)).json()["redrives"]
            stopped = (await client.delete(f"{API}/dead/redrives/{begun['id']}")).json()
        assert stopped["state"] == "cancelled"
        assert (await found.services.inspector.queue("t")).failed >= 49


# ---------------------------------------------------------------------- schedules


async def test_schedules_are_added_changed_run_and_removed(redis_url: str) -> None:
    async with console(redis_url) as found:
        client, url = await found.of("operator"), f"{API}/schedules"
        new = {"name": "nightly", "function": "ask", "payload": {"question": "q"}, "cron": "0 2 * * *",
               "timezone": "Europe/Berlin", "tags": ["n"], "max_tries": 2}  # fmt: skip
        made = await client.post(url, json=new)
        assert (made.status_code, made.json()["name"], len(made.json()["next_runs"])) == (201, "t:nightly", 3)
        assert (await client.post(url, json=new)).status_code == 409
        for wrong in ({"cron": "often"}, {"every": "1d"}, {"payload": {}}, {"function": "nope"}, {"timezone": "Mars"},
                      {"family": "none"}, {"name": "a b"}):  # fmt: skip
            answer = await client.post(url, json={**new, "name": "other", **wrong})
            assert answer.status_code == 422, wrong
        changed = await client.patch(f"{url}/t:nightly", json={"cron": "0 3 * * *", "payload": {"question": "r"}})
        assert (changed.json()["cron"], changed.json()["payload"]["question"]) == ("0 3 * * *", "r")
        assert changed.json()["options"] == {"tags": ["n"], "max_tries": 2}
        assert (await client.patch(f"{url}/t:nightly", json={"max_tries": None})).json()["options"] == {"tags": ["n"]}
        assert (await client.patch(f"{url}/t:nightly", json={"payload": {}})).status_code == 422
        both = await client.patch(f"{url}/t:nightly", json={"paused": True, "cron": "often"})
        assert (both.status_code, (await client.get(f"{url}/t:nightly")).json()["state"]) == (422, "active")
        assert (await client.patch(f"{url}/t:nightly", json={"paused": True})).json()["state"] == "paused"
        run = await client.post(f"{url}/t:nightly/run")
        assert run.status_code == 202
        assert (await client.get(f"{API}/jobs/{run.json()['id']}")).json()["payload"]["question"] == "r"
        assert [each["name"] for each in (await client.get(url, params={"family": "t"})).json()] == ["t:nightly"]
        assert (await client.get(f"{url}/t:nightly")).json()["state"] == "paused"
        assert (await client.delete(f"{url}/t:nightly")).status_code == 204
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/run")):
            assert (await client.request(method, f"{url}/t:nightly{path}")).status_code == 404
        done = [action for action, _ in await actions(found)]
        assert {"schedule.add", "schedule.change", "schedule.pause", "schedule.run", "schedule.remove"} <= set(done)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "name what to change"),
        ({"cron": None}, "a schedule has its times: give cron or every"),
        ({"every": None, "count": 3}, "a schedule has its times: give cron or every"),
        ({"function": None}, "function: it cannot be taken away: leave it out, or name another"),
        ({"paused": None}, "paused: it cannot be taken away: leave it out, or name another"),
        ({"timezone": None}, "timezone: "),
        ({"missed": None}, "missed: "),
    ],
)
async def test_a_change_that_would_be_none_is_refused(redis_url: str, change: dict[str, Any], told: str) -> None:
    async with console(redis_url) as found:
        client, url = await found.of("operator"), f"{API}/schedules"
        new = {"name": "s", "function": "ask", "payload": {"question": "q"}, "cron": "0 2 * * *"}
        made = (await client.post(url, json=new)).json()
        answer = await client.patch(f"{url}/t:s", json=change)
        assert (answer.status_code, told in answer.json()["detail"]) == (422, True), answer.text
        assert (await client.get(f"{url}/t:s")).json() == made


async def test_null_takes_away_what_a_schedule_can_be_without(redis_url: str) -> None:
    async with console(redis_url) as found:
        client, url = await found.of("operator"), f"{API}/schedules"
        options = {"priority": 3, "max_tries": 2, "timeout": 9, "expires": 60, "group": "g", "tags": ["n"],
                   "dedup_key": "k"}  # fmt: skip
        times = {"start": "2030-01-01T00:00:00Z", "end": "2031-01-01T00:00:00Z", "count": 3}
        await client.post(url, json={"name": "s", "function": "plain", "cron": "0 2 * * *", **options, **times})
        for name in (*options, *times):
            answer = await client.patch(f"{url}/t:s", json={name: None})
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert (name in told["options"], told.get(name)) == (False, None)
        assert told["options"] == {}
        assert (await client.patch(f"{url}/t:s", json={"cron": None, "every": "1h"})).json()["cron"] == "@every 3600s"
        assert (await client.patch(f"{url}/t:s", json={"payload": {"n": 3}})).json()["payload"] == {"n": 3}
        assert (await client.patch(f"{url}/t:s", json={"payload": None})).json()["payload"] == {"n": 0}


# ---------------------------------------------------------------------- markup


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)"])
async def test_markup_is_told_as_json_that_no_browser_takes_for_a_page(redis_url: str, text: str) -> None:
    family = make_family("t", *FUNCTIONS)
    async with console(redis_url, family) as found:
        client = await found.of("operator")
        body = {"function": "ask", "payload": {"question": text, "fail": text}, "job_id": text, "group": text,
                "tags": [text], "max_tries": 1}  # fmt: skip
        made = (await client.post(f"{API}/jobs", json=body)).json()
        await run_burst(redis_url, family)
        answers = [
            await client.get(f"{API}/jobs/t:{text}"),
            await client.get(f"{API}/jobs/none:{text}"),
            await client.get(f"{API}/queues/{text}"),
            await client.get(f"{API}/queues/t/jobs", params={"state": text}),
            await client.get(f"{API}/dead"),
            await client.get(f"{API}/dead/groups"),
            await client.get(f"{API}/audit"),
            await client.get(f"{API}/{text}"),
        ]
        assert made["id"] == f"t:{text}"
        assert answers[0].json()["error"]["message"] == text
        for answer in answers:
            assert answer.headers["content-type"] in ("application/json", "application/problem+json")
            assert answer.headers["x-content-type-options"] == "nosniff"
