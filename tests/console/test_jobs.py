"""Jobs through the API: handed over, looked at, acted on; what is encrypted, and what is too much."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.encryption import MASK, KeyRing, generate_key
from daemon.errors import PermanentError
from daemon.job import JobState
from daemon.payload import Payload
from daemon.secret import Secret
from tests.asking import FUNCTIONS, Ask
from tests.console.support import API, console
from tests.engine import eventually, make_family, run_burst, working

ASK = {"function": "ask", "payload": {"question": "why"}}


async def test_a_job_is_handed_over_runs_and_is_told(redis_url: str) -> None:
    family = make_family("t", *FUNCTIONS)
    async with console(redis_url, family) as found:
        client = await found.of("operator")
        answer = await client.post(f"{API}/jobs", json={**ASK, "priority": "high", "tags": ["x"], "max_tries": 2})
        assert answer.status_code == 202
        told = answer.json()
        assert told == {
            "id": told["id"], "family": "t", "state": "waiting", "url": f"{API}/jobs/{told['id']}", "created": True,
        }  # fmt: skip
        await run_burst(redis_url, family)
        job = (await client.get(told["url"])).json()
        assert (job["state"], job["tries"], job["progress"]) == ("completed", 1, 100)
        assert job["result"]["text"] == "WHY"
        assert (await client.get(told["url"] + "/logs")).json() == {"lines": [], "dropped": 0}
        assert (await client.get(told["url"] + "/explain")).json()["reason"] == "completed"
        (entry,) = (await found.services.audit.page()).entries
        assert (entry.actor, entry.action, entry.target, entry.outcome) == (
            "test-operator", "job.submit", told["id"], "done",
        )  # fmt: skip
        assert (entry.role, entry.via, entry.address) == ("operator", "token", "192.0.2.7")


@pytest.mark.parametrize(
    ("asked", "fields", "told"),
    [
        ({"function": "nope"}, None, "no function 'nope' here; known are ask, plain, wait_for_end"),
        ({**ASK, "family": "other"}, None, "there is no family 'other': known are t"),
        ({"function": "ask", "payload": {}}, ["payload.question"], "payload of ask: question: Field required"),
        ({"function": "ask", "payload": {"question": 1, "x": 2}}, ["payload.question", "payload.x"], "valid string"),
        ({**ASK, "priority": 11}, None, "use 1 (first) to 10 (last)"),
        ({**ASK, "delay": "soon"}, None, "'soon' is not a duration"),
        ({**ASK, "run_at": "2030-01-01T00:00:00"}, ["run_at"], "timezone info"),
        ({**ASK, "backoff": "often"}, None, "backoff: write 'exponential 3s max 1h jitter 0.1'"),
        ({**ASK, "backoff": {"base": -1}}, ["backoff.base"], "greater than or equal to 0"),
        ({**ASK, "keep": {"completed": "never"}}, None, "keep completed 'never'"),
        ({**ASK, "dedup": {"window": 5}}, ["dedup.key"], "Field required"),
        ({**ASK, "template": "none"}, None, "there is no template 'none'"),
        ({**ASK, "attempts": 3}, ["attempts"], "Extra inputs are not permitted"),
        ({"payload": {}}, ["function"], "Field required"),
    ],
)
async def test_what_is_wrong_is_told_and_nothing_is_written(
    redis_url: str, asked: dict[str, Any], fields: list[str] | None, told: str
) -> None:
    async with console(redis_url) as found:
        answer = await (await found.of("operator")).post(f"{API}/jobs", json=asked)
        problem = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert told in problem["detail"]
        assert [error["field"] for error in problem.get("errors") or []] == (fields or [])
        assert (await found.services.inspector.queue("t")).waiting == 0


async def test_no_error_repeats_what_was_sent(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        for asked in (
            {"function": "ask", "payload": {"question": ["hunter2"]}},
            {"function": "ask", "payload": {"question": "x", "extra": "hunter2"}},
            {"function": "ask", "payload": "hunter2"},
            {**ASK, "tags": "hunter2"},
        ):
            answer = await client.post(f"{API}/jobs", json=asked)
            assert answer.status_code == 422
            assert "hunter2" not in answer.text
        assert "hunter2" not in str((await found.services.audit.page()).entries)


async def test_all_options_reach_the_job(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        options = {
            "delay": "1h", "job_id": "mine", "max_tries": 4, "backoff": {"type": "fixed", "base": 5}, "timeout": "10s",
            "expires": "2d", "group": "acme", "tags": ["a"], "keep": {"failed": "90d"}, "priority": 2,
            "dedup": {"key": "k", "window": "1m", "mode": "replace"},
        }  # fmt: skip
        answer = (await client.post(f"{API}/jobs", json={**ASK, **options})).json()
        assert (answer["id"], answer["state"]) == ("t:mine", "delayed")
        again = (await client.post(f"{API}/jobs", json={**ASK, **options, "job_id": "other"})).json()
        assert (again["id"], again["created"]) == ("t:mine", False)
        job = await found.services.inspector.job("t:mine")
        assert (job.max_tries, job.tags, job.priority) == (4, ["a"], 2)
        waits = await client.post(f"{API}/jobs", json={**ASK, "depends_on": ["t:mine"]})
        assert waits.json()["state"] == "blocked"
        flow = (await client.get(f"{API}/flows/{waits.json()['id']}")).json()
        assert [child["id"] for child in flow["children"]] == ["t:mine"]


async def test_a_repeat_with_the_same_key_adds_none(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        key = {"idempotency-key": "order-17"}
        first = (await client.post(f"{API}/jobs", json=ASK, headers=key)).json()
        second = (await client.post(f"{API}/jobs", json=ASK, headers=key)).json()
        assert (first["id"], first["created"], second["id"], second["created"]) == (
            "t:order-17", True, "t:order-17", False,
        )  # fmt: skip
        same = await client.post(f"{API}/jobs", json={**ASK, "job_id": "order-17"}, headers=key)
        assert same.status_code == 202
        other = await client.post(f"{API}/jobs", json={**ASK, "job_id": "else"}, headers=key)
        assert (other.status_code, "job_id and Idempotency-Key differ" in other.text) == (422, True)
        for _ in range(2):
            batch = await client.post(f"{API}/jobs/batch", json={"jobs": [ASK, ASK]}, headers=key)
        assert [one["job"]["id"] for one in batch.json()["results"]] == ["t:order-17-0", "t:order-17-1"]
        assert (await found.services.inspector.queue("t")).waiting == 3


async def test_each_job_of_a_batch_has_an_answer_of_its_own(redis_url: str) -> None:
    other = make_family("other", *FUNCTIONS[1:])
    async with console(redis_url, make_family("t", FUNCTIONS[0]), other) as found:
        client = await found.of("operator")
        jobs = [
            ASK,
            {"function": "ask", "payload": {}},
            {"function": "plain", "payload": {"n": 1}},
            {"function": "plain", "payload": {"n": 2}, "priority": "never"},
            {"function": "nope"},
            {"function": "plain", "depends_on": ["none"]},
            {"function": "plain", "payload": {"n": 3}, "delay": 60},
        ]
        answer = await client.post(f"{API}/jobs/batch", json={"jobs": jobs})
        assert answer.status_code == 202
        told = answer.json()["results"]
        assert [one["status"] for one in told] == [202, 422, 202, 422, 422, 422, 202]
        assert [one["job"] and one["job"]["state"] for one in told] == [
            "waiting", None, "waiting", None, None, None, "delayed",
        ]  # fmt: skip
        assert "use 1 (first) to 10 (last)" in told[3]["problem"]["detail"]
        queues = {queue.family: queue.waiting for queue in await found.services.inspector.queues()}
        assert queues == {"t": 1, "other": 1}
        (entry,) = (await found.services.audit.page()).entries
        assert (entry.target, entry.detail) == ("other, t", {"jobs": {"202": 3, "422": 4}})
        for wrong in ([], [ASK] * 1001):
            assert (await client.post(f"{API}/jobs/batch", json={"jobs": wrong})).status_code == 422


async def test_too_many_jobs_have_to_wait(redis_url: str) -> None:
    async with console(redis_url, submit_rate=3) as found:
        client = await found.of("operator")
        assert (await client.post(f"{API}/jobs/batch", json={"jobs": [ASK] * 30})).status_code == 202
        refused = await client.post(f"{API}/jobs", json=ASK)
        assert refused.status_code == 429
        assert 3 <= int(refused.headers["retry-after"]) <= 9
        assert "3 jobs a second" in refused.json()["detail"]
        # Another caller has a rate of its own.
        assert (await (await found.of("admin")).post(f"{API}/jobs", json=ASK)).status_code == 202
        assert (await found.services.inspector.queue("t")).waiting == 31


async def test_a_full_queue_says_when_to_try_again(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        assert (await client.put(f"{API}/queues/t/limits", json={"max_bytes": "2KB"})).status_code == 200
        jobs = [{"function": "ask", "payload": {"question": "x" * 400}}] * 3
        statuses = [(await client.post(f"{API}/jobs", json=job)) for job in jobs * 3]
        refused = [answer for answer in statuses if answer.status_code == 429]
        assert refused
        assert int(refused[0].headers["retry-after"]) >= 1
        assert "the queue t is full" in refused[0].json()["detail"]
        batch = (await client.post(f"{API}/jobs/batch", json={"jobs": jobs})).json()["results"]
        assert {one["status"] for one in batch} == {429}


async def test_too_large_is_413(redis_url: str) -> None:
    async with console(redis_url, max_body=3_000_000) as found:
        client = await found.of("operator")
        payload = await client.post(f"{API}/jobs", json={"function": "ask", "payload": {"question": "x" * 1_000_001}})
        assert (payload.status_code, "payload" in payload.json()["detail"]) == (413, True)

        async def parts() -> Any:
            for _ in range(4):
                yield b"x" * 1_000_000

        for body in (b"x" * 3_000_001, parts()):
            answer = await client.post(f"{API}/jobs", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert "ARQD_CONSOLE__MAX_BODY" in answer.json()["detail"]


async def test_acting_on_one_job(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        for name, more in {"a": {}, "b": {"delay": 60}}.items():
            await client.post(f"{API}/jobs", json={**ASK, "job_id": name, **more})
        post, b = client.post, f"{API}/jobs/t:b"
        assert (await post(f"{b}/priority", json={"priority": "low"})).json() == {"id": "t:b", "outcome": "changed"}
        assert (await post(f"{b}/promote")).json()["outcome"] == "promoted"
        assert (await post(f"{b}/promote")).json()["detail"] == "t:b: it is not delayed"
        assert (await post(f"{b}/retry")).status_code == 409
        assert (await post(f"{b}/abort")).json()["outcome"] == "aborted"
        assert (await post(f"{b}/abort")).status_code == 409
        assert (await client.delete(b)).status_code == 204
        assert (await client.delete(b)).status_code == 404
        assert (await client.get(b)).status_code == 404
        assert (await post(f"{API}/jobs/t:a/priority", json={"priority": "never"})).status_code == 422
        entries = (await found.services.audit.page()).entries
        assert [(e.action, e.outcome) for e in reversed(entries)][2:] == [
            ("job.priority", "done"), ("job.promote", "done"), ("job.promote", "refused"), ("job.retry", "refused"),
            ("job.abort", "done"), ("job.abort", "refused"), ("job.remove", "done"), ("job.remove", "refused"),
            ("job.priority", "refused"),
        ]  # fmt: skip


async def test_a_running_job_is_told_to_stop(redis_url: str) -> None:
    family = make_family("t", *FUNCTIONS)
    async with console(redis_url, family) as found, working(redis_url, family):
        client = await found.of("operator")
        job = await found.services.producer.enqueue("wait_for_end", [30], family="t")
        await eventually(lambda: is_in(job.status, JobState.ACTIVE))
        (worker,) = (await client.get(f"{API}/workers")).json()
        assert (worker["family"], worker["running"] + worker["holds"] > 0) == ("t", True)
        assert worker["jobs"] == [job.id]
        assert abs((datetime.now(UTC) - datetime.fromisoformat(worker["started"])).total_seconds()) < 3600
        assert (await client.delete(f"{API}/jobs/{job.id}")).json()["detail"] == f"{job.id}: it is running"
        assert (await client.post(f"{API}/jobs/{job.id}/abort")).json()["outcome"] == "asked"
        await eventually(lambda: is_in(job.status, JobState.ABORTED))


async def is_in(status: Any, state: JobState) -> bool:
    return bool(await status() is state)


async def test_an_id_that_is_no_text_is_none(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answer = await client.post(
            f"{API}/dead/retry", content=r'{"ids": ["t:\ud800"]}', headers={"content-type": "application/json"}
        )
        assert (answer.status_code, "no text" in answer.text) == (422, True)


async def test_lists_have_pages_and_filters(redis_url: str) -> None:
    family = make_family("t", *FUNCTIONS)
    async with console(redis_url, family) as found:
        client = await found.of("viewer")
        producer = found.services.producer
        await producer.enqueue_many([Ask(question=str(n), fail="no" if n % 2 else None) for n in range(6)], max_tries=1)
        await producer.enqueue("plain", {"n": 1}, family="t", tags=["odd"])
        url, seen, cursor = f"{API}/queues/t/jobs", [], None
        for _ in range(4):
            page = (await client.get(url, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
            seen += [job["id"] for job in page["jobs"]]
            cursor = page["cursor"]
        assert (len(set(seen)), cursor) == (7, None)
        assert len((await client.get(url, params={"function": "plain", "tag": "odd"})).json()["jobs"]) == 1
        assert (await client.get(url, params={"until": "1h"})).json()["jobs"] == []
        await run_burst(redis_url, family)
        failed = (await client.get(url, params={"state": "failed", "error": "ValueError", "since": "1h"})).json()
        assert len(failed["jobs"]) == 3
        for wrong in ({"state": "lost"}, {"cursor": "x"}, {"limit": 501}, {"since": "noon"}, {"q": "word"}):
            answer = await client.get(url, params=wrong)
            assert answer.status_code == 422, wrong


class Card(Payload, family="vault"):
    owner: str
    number: Secret[str]


async def pay(ctx: JobContext, job: Card) -> None:
    await ctx.log("paying")
    raise PermanentError("no")


async def test_secret_fields_are_masked_and_an_admin_reveals_them(redis_url: str) -> None:
    keyring = KeyRing.parse(generate_key("k"))
    async with console(redis_url, make_family("vault", pay), keyring=keyring) as found:
        viewer, operator, admin = [await found.of(role) for role in ("viewer", "operator", "admin")]
        sent = {"function": "pay", "payload": {"owner": "ada", "number": "4111"}, "job_id": "x"}
        assert (await operator.post(f"{API}/jobs", json=sent)).status_code == 202
        url = f"{API}/jobs/vault:x"
        for client in (viewer, operator, admin):
            assert (await client.get(url)).json()["payload"] == {"owner": "ada", "number": MASK}
        for client in (viewer, operator):
            for path in (url, f"{url}/logs"):
                assert (await client.get(path, params={"reveal": True})).status_code == 403
        assert (await admin.get(url, params={"reveal": True})).json()["payload"]["number"] == "4111"
        assert (await admin.get(f"{url}/logs", params={"reveal": True})).status_code == 200
        reveals = (await found.services.audit.page()).entries[:2]
        assert [(e.actor, e.action, e.target) for e in reveals] == [("test-admin", "job.reveal", "vault:x")] * 2


async def test_what_cannot_be_revealed_is_told(redis_url: str) -> None:
    family = make_family("vault", pay)
    async with console(redis_url, family, keyring=KeyRing.parse(generate_key("k"))) as found:
        await found.services.producer.enqueue(Card(owner="ada", number="4111"), job_id="x")
    async with console(redis_url, family) as found:
        answer = await (await found.of("admin")).get(f"{API}/jobs/vault:x", params={"reveal": True})
        assert (answer.status_code, "does not have: ARQD_ENCRYPTION_KEYS" in answer.json()["detail"]) == (409, True)


async def test_many_callers_at_once_have_one_chain(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answers = await asyncio.gather(*(client.post(f"{API}/jobs", json=ASK) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {202}
        verdict = await found.services.audit.verify()
        assert (verdict.entries, verdict.faults) == (40, [])
