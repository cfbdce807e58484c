"""Requests that are not quite right: each gets an answer that says what to do, and does nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asking import FUNCTIONS
from tests.console.support import API, console
from tests.engine import make_family

ASK: dict[str, Any] = {"function": "ask", "payload": {"question": "why"}}
WAITS = {**ASK, "delay": "1h"}


@pytest.mark.parametrize("path", ["/queues/t/drain", "/queues/drain", "/queues/t/clear"])
async def test_a_dry_run_asked_for_in_the_address_removes_nothing(redis_url: str, path: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        await client.post(f"{API}/jobs", json=WAITS)
        answer = await client.post(f"{API}{path}?dry_run=true")
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"field": "dry_run", "message": "no parameter of this request"}]
        assert "options go into the body, as JSON" in answer.json()["detail"]
        assert (await found.services.inspector.queue("t")).delayed == 1


async def test_a_misspelt_filter_is_refused_not_left_out(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("viewer")
        answer = await client.get(f"{API}/queues/t/jobs?stat=failed")
        assert answer.status_code == 422
        assert "'stat' is no parameter" in answer.json()["detail"]
        assert "state" in answer.json()["detail"]
        # Some who ask whether it is up add one, so that no proxy answers.
        assert (await found.anyone.get(f"{API}/health?t=1")).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b'{"function": "ask"', "application/json", "this is no JSON: "),
        (b'{"function": "ask"}', "application/x-www-form-urlencoded", "send JSON, with the header Content-Type"),
        (b'{"function": "ask"}', "text/plain", "send JSON, with the header Content-Type"),
        (b"", "application/json", "there is no body: send a JSON object"),
        (b'["ask"]', "application/json", "send a JSON object"),
    ],
)
async def test_a_body_that_is_no_json_object(redis_url: str, content: bytes, kind: str, told: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answer = await client.post(f"{API}/jobs", content=content, headers={"content-type": kind})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(told)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("priority", True),
        ("delay", True),
        ("max_tries", True),
        ("priority", 2.5),
        ("priority", []),
        ("job_id", ""),
        ("dedup.key", ""),
        ("dedup.window", False),
    ],
)
async def test_a_field_of_a_wrong_kind_is_named_as_it_was_sent(redis_url: str, field: str, wrong: Any) -> None:
    name, _, inner = field.partition(".")
    async with console(redis_url) as found:
        client = await found.of("operator")
        given = {"key": "k", inner: wrong} if inner else wrong
        answer = await client.post(f"{API}/jobs", json={**ASK, name: given})
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert (await found.services.inspector.queue("t")).waiting == 0


async def test_a_wrong_parameter_is_named_as_it_was_sent(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        for path, field in (("/queues/t/jobs?limit=0", "limit"), ("/audit?outcome=zz", "outcome")):
            answer = await client.get(API + path)
            assert (answer.status_code, [each["field"] for each in answer.json()["errors"]]) == (422, [field])


async def test_empty_parameters_ask_for_nothing(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        job = (await client.post(f"{API}/jobs", json=WAITS)).json()["id"]
        listed = await client.get(f"{API}/queues/t/jobs?state=delayed&cursor=&function=&tag=&since=&until=&q=")
        assert [each["id"] for each in listed.json()["jobs"]] == [job]
        for path in ("/dead?family=&cursor=&cause=", "/schedules?family=", "/audit?outcome=&cursor=&actor="):
            assert (await client.get(API + path)).status_code == 200, path


@pytest.mark.parametrize("name", ["cause", "function", "tag", "group", "error", "since"])
async def test_an_empty_name_does_not_stand_for_every_dead_letter(redis_url: str, name: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        for path in ("/dead/discard", "/dead/retry", "/queues/t/retry"):
            answer = await client.post(API + path, json={name: ""})
            assert (answer.status_code, [each["field"] for each in answer.json()["errors"]]) == (422, [name]), path


async def test_the_address_of_a_job_leads_to_it_whatever_its_id(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        for job_id in ("a b?c#d%25/é", "order/17", "100%"):
            told = (await client.post(f"{API}/jobs", json={**WAITS, "job_id": job_id})).json()
            assert told["url"].isascii()
            answer = await client.get(told["url"])
            assert (answer.status_code, answer.json().get("id")) == (200, f"t:{job_id}")


async def test_a_job_of_no_family_and_a_job_that_is_none_are_not_found(redis_url: str) -> None:
    async with console(redis_url, make_family("t", *FUNCTIONS), make_family("u", *FUNCTIONS)) as found:
        client = await found.of("operator")
        for path in ("/jobs/v:1", "/jobs/nothing", "/jobs/t:no/explain", "/flows/v:1", "/jobs/v:1/logs"):
            answer = await client.get(API + path)
            assert answer.status_code == 404, (path, answer.text)
        assert (await client.post(f"{API}/jobs/v:1/abort")).status_code == 404


async def test_a_head_is_answered_as_a_get_without_its_body(redis_url: str) -> None:
    async with console(redis_url) as found:
        admin = await found.of("admin")
        document = (await admin.get(f"{API}/openapi.json")).json()
        assert not any("head" in methods for methods in document["paths"].values())
        # The stream of events has no end: see test_live.
        for path in document["paths"].keys() - {f"{API}/events"}:
            where = path.replace("{family}", "t")
            for client in (admin, found.anyone):
                head, got = await client.head(where), await client.get(where)
                assert (head.status_code, head.headers.keys()) == (got.status_code, got.headers.keys()), where
                assert (head.content, head.headers["content-type"]) == (b"", got.headers["content-type"])


async def test_a_token_that_is_none_is_told_so(redis_url: str) -> None:
    async with console(redis_url) as found:
        nobody = await found.anyone.get(f"{API}/queues")
        revoked = await found.client("arqd_gone.x").get(f"{API}/queues")
        assert (nobody.status_code, revoked.status_code) == (401, 401)
        assert nobody.json()["detail"].startswith("log in, or send a token")
        assert revoked.json()["detail"].startswith("this token is none in force")


@pytest.mark.parametrize("body", [{"dry_run": True}, {"until": "1h"}, [], "x"])
async def test_what_takes_no_body_does_nothing_with_one(redis_url: str, body: Any) -> None:
    """Who sends a dry run of a pause, or a pause for an hour, would get another thing."""
    async with console(redis_url) as found:
        client = await found.of("admin")
        job = (await client.post(f"{API}/jobs", json=WAITS)).json()["id"]
        new = {"name": "s", "function": "plain", "every": "1d"}
        assert (await client.post(f"{API}/schedules", json=new)).status_code == 201
        for method, path in (
            ("POST", "/queues/t/pause"), ("POST", "/queues/pause"), ("POST", f"/jobs/{job}/promote"),
            ("POST", f"/jobs/{job}/abort"), ("DELETE", f"/jobs/{job}"), ("POST", "/schedules/t:s/run"),
            ("DELETE", "/schedules/t:s"), ("DELETE", "/tokens/test-admin"),
        ):  # fmt: skip
            answer = await client.request(method, API + path, json=body)
            assert (answer.status_code, "takes no body" in answer.text) == (422, True), (path, answer.text)
        assert (await client.get(f"{API}/jobs/{job}")).json()["state"] == "delayed"
        stats = await found.services.inspector.queue("t")
        assert (stats.paused, stats.waiting, stats.delayed) == (False, 0, 1)
        # What programs send that always send something.
        for content in (b"{}", b"null", b""):
            assert (await client.post(f"{API}/queues/t/pause", content=content)).status_code == 200


@pytest.mark.parametrize("name", ["rate", "tolerance", "patience"])
async def test_care_without_canaries_is_refused_not_left_out(redis_url: str, name: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answer = await client.post(f"{API}/dead/retry", json={name: 10})
        assert (answer.status_code, "go with canaries" in answer.json()["detail"]) == (422, True)
        # As they are by default: programs made from the document send them.
        every = {"canaries": 0, "rate": 50, "tolerance": 1, "patience": 600}
        assert (await client.post(f"{API}/dead/retry", json=every)).status_code == 200


async def test_a_silence_of_nothing_is_refused(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answer = await client.post(f"{API}/alerts/silence", json={"for": "1h", "subject": ""})
        assert [error["field"] for error in answer.json()["errors"]] == ["subject"]
        assert (await client.get(f"{API}/alerts")).json()["silences"] == []


@pytest.mark.parametrize(
    "limit",
    [
        {"rate": "9" * 400 + "/s"},
        {"rate": "10000000000/s"},
        {"max_bytes": "99999999999999999999TB"},
        {"group": "g" * 257, "rate": "1/s"},
        {"function": "f" * 257, "concurrency": 1},
    ],
)
async def test_a_limit_that_cannot_be_meant_is_refused(redis_url: str, limit: dict[str, Any]) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answer = await client.put(f"{API}/queues/t/limits", json=limit)
        assert answer.status_code == 422, answer.text
        assert len(answer.text) < 500
        assert (await client.get(f"{API}/queues/t/limits")).json()["limits"] == []


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"function": "\xff"}', b"\x1f\x8b\x08\x00>[\tk", b'{"a": ' + b"9" * 9000]
)
async def test_a_body_that_cannot_be_read_is_told_how_to_be_sent(redis_url: str, content: bytes) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        answer = await client.post(f"{API}/jobs", content=content, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(("this cannot be read as JSON: ", "this is no JSON: "))


async def test_what_is_told_of_a_number_or_a_name_that_is_too_large(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        answer = await client.post(f"{API}/jobs", json={**ASK, "delay": 1e300})
        assert (
            answer.json()["detail"] == "1e+300 is not a duration: it must be 0 or more seconds, and at most 278 years"
        )
        answer = await client.post(f"{API}/jobs", json={**ASK, "function": "f" * 5000})
        assert (answer.status_code, len(answer.text) < 1000) == (422, True)
