"""Every endpoint, asked by nobody and by each role: who lacks the role is refused, whatever else is right."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from daemon.console.roles import Role
from tests.conftest import RedisServerFactory
from tests.console.support import API, Console, console

JOB = {"function": "plain", "payload": {"n": 1}}
#: What each endpoint needs, and a body with which it gets so far.
TABLE: list[tuple[str, str, Role | None, Any]] = [
    ("GET", "/health", None, None),
    ("GET", "/openapi.json", Role.VIEWER, None),
    ("GET", "/queues", Role.VIEWER, None),
    ("GET", "/queues/{family}", Role.VIEWER, None),
    ("GET", "/queues/{family}/health", Role.VIEWER, None),
    ("GET", "/queues/{family}/stats", Role.VIEWER, None),
    ("GET", "/queues/{family}/limits", Role.VIEWER, None),
    ("GET", "/queues/{family}/jobs", Role.VIEWER, None),
    ("GET", "/jobs/{id}", Role.VIEWER, None),
    ("GET", "/jobs/{id}/logs", Role.VIEWER, None),
    ("GET", "/jobs/{id}/explain", Role.VIEWER, None),
    ("GET", "/flows/{id}", Role.VIEWER, None),
    ("GET", "/dead", Role.VIEWER, None),
    ("GET", "/dead/groups", Role.VIEWER, None),
    ("GET", "/dead/redrives", Role.VIEWER, None),
    ("GET", "/dead/archive", Role.VIEWER, None),
    ("GET", "/dead/archive/{number}", Role.VIEWER, None),
    ("GET", "/schedules", Role.VIEWER, None),
    ("GET", "/schedules/{name}", Role.VIEWER, None),
    ("GET", "/workers", Role.VIEWER, None),
    ("GET", "/events", Role.VIEWER, None),
    ("GET", "/audit", Role.OPERATOR, None),
    ("POST", "/jobs", Role.OPERATOR, JOB),
    ("POST", "/jobs/batch", Role.OPERATOR, {"jobs": [JOB]}),
    ("DELETE", "/jobs/{id}", Role.OPERATOR, None),
    ("POST", "/jobs/{id}/retry", Role.OPERATOR, None),
    ("POST", "/jobs/{id}/promote", Role.OPERATOR, None),
    ("POST", "/jobs/{id}/abort", Role.OPERATOR, None),
    ("POST", "/jobs/{id}/priority", Role.OPERATOR, {"priority": 3}),
    *(("POST", f"/queues/{act}", Role.OPERATOR, None) for act in ("pause", "resume", "drain", "clean")),
    *(
        ("POST", f"/queues/{{family}}/{act}", Role.OPERATOR, None)
        for act in ("pause", "resume", "drain", "clean", "clear", "retry")
    ),
    ("PUT", "/queues/{family}/limits", Role.OPERATOR, {"rate": "5/s"}),
    ("POST", "/dead/retry", Role.OPERATOR, {}),
    ("POST", "/dead/discard", Role.OPERATOR, {}),
    ("POST", "/dead/archive", Role.OPERATOR, {}),
    ("POST", "/dead/archive/retry", Role.OPERATOR, {"numbers": [1]}),
    ("DELETE", "/dead/redrives/{redrive}", Role.OPERATOR, None),
    ("POST", "/schedules", Role.OPERATOR, {"name": "s", "function": "plain", "every": "1d"}),
    ("PATCH", "/schedules/{name}", Role.OPERATOR, {"paused": True}),
    ("DELETE", "/schedules/{name}", Role.OPERATOR, None),
    ("POST", "/schedules/{name}/run", Role.OPERATOR, None),
    ("GET", "/alerts", Role.VIEWER, None),
    ("POST", "/alerts/silence", Role.OPERATOR, {"for": "1h"}),
    ("DELETE", "/alerts/silence/{silence}", Role.OPERATOR, None),
    ("GET", "/tokens", Role.ADMIN, None),
    ("POST", "/tokens", Role.ADMIN, {"name": "new", "role": "viewer"}),
    ("DELETE", "/tokens/{name}", Role.ADMIN, None),
]
PLACES = {
    "family": "t", "id": "t:none", "name": "t:none", "redrive": "none", "number": "1", "silence": "none",
}  # fmt: skip


async def ask(found: Console, client: Any, method: str, path: str, body: Any) -> int:
    url = API + path.format(**PLACES)
    # A stream has no end: only whether it begins is asked.
    if path == "/events":
        found.services.live._closed = True
    answer = await client.request(method, url, json=body)
    assert answer.headers["content-type"] == "application/problem+json" or answer.status_code < 400, answer.text
    return int(answer.status_code)


async def test_the_table_has_every_endpoint(redis_url: str) -> None:
    async with console(redis_url) as found:
        document = (await (await found.of("viewer")).get(f"{API}/openapi.json")).json()
    known = {(method.upper(), path.removeprefix(API)) for path, at in document["paths"].items() for method in at}
    assert known == {(method, path) for method, path, _, _ in TABLE}


@pytest.mark.parametrize("role", [None, *Role])
async def test_who_lacks_the_role_is_refused(redis_url: str, role: Role | None) -> None:
    async with console(redis_url) as found:
        client = found.anyone if role is None else await found.of(role)
        for method, path, needed, body in TABLE:
            status = await ask(found, client, method, path, body)
            if needed is None or (role is not None and role.includes(needed)):
                assert status not in (401, 403, 422), (method, path, status)
            else:
                assert status == (401 if role is None else 403), (method, path, status)
        if role not in (Role.OPERATOR, Role.ADMIN):
            assert (await found.services.audit.page()).entries == []
            assert (await found.services.inspector.queue("t")).waiting == 0


async def test_a_browser_needs_the_token_against_forgery_for_every_change(redis_url: str) -> None:
    async with console(redis_url) as found:
        browser, csrf = await found.browser()
        for method, path, _, body in TABLE:
            status = await ask(found, browser, method, path, body)
            assert (status == 403) == (method != "GET"), (method, path, status)
        wrong = await browser.post(f"{API}/queues/t/pause", headers={"x-csrf-token": csrf[:-1]})
        assert wrong.status_code == 403
        assert not (await found.services.inspector.queue("t")).paused
        right = await browser.post(f"{API}/queues/t/pause", headers={"x-csrf-token": csrf})
        assert right.status_code == 200
        form = await browser.post(f"{API}/queues/t/resume", data={"csrf": csrf})
        assert form.status_code == 200


async def test_a_read_only_console_changes_nothing(redis_url: str) -> None:
    async with console(redis_url, read_only=True) as found:
        admin = await found.of("admin")
        for method, path, needed, body in TABLE:
            status = await ask(found, admin, method, path, body)
            assert (status == 403) == (method != "GET"), (method, path, status, needed)


async def test_without_redis_every_endpoint_says_so(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with console(server.url) as found:
        admin = await found.of("admin")
        server.kill()
        for (method, path, _, body), client in itertools.product(TABLE, (admin, found.anyone)):
            if path != "/health":
                expected = 503 if client is admin else 401
                assert await ask(found, client, method, path, body) == expected, (method, path)
