"""docs/api.md, docs/api.http and docs/access.md against the console."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis.exceptions

from daemon.console.api.openapi import document
from daemon.console.roles import Role
from daemon.family import load_family
from handlers.email.worker import WorkerSettings
from handlers.integrations.database import Database
from tests.asking import FUNCTIONS
from tests.conftest import RedisServerFactory
from tests.console.support import API, Console, console
from tests.console.test_roles import TABLE
from tests.docs.pages import ROOT, name, names, page, table
from tests.engine import eventually, make_family, run_burst, working

LOOKS = ("GET", "HEAD")


def documented(found: Console) -> set[tuple[str, str]]:
    paths = document(found.app, found.services.catalog)["paths"]
    return {(method.upper(), path.removeprefix(API)) for path, at in paths.items() for method in at}


async def test_the_table_of_endpoints_is_that_of_the_console(redis_url: str) -> None:
    rows = [(name(row[0]).partition(" "), row[1]) for row in table(page("api"), "endpoints")]
    told = {(method, path): role for (method, _, path), role in rows}
    assert len(told) == len(rows)
    assert told == {(method, path): "–" if role is None else str(role) for method, path, role, _ in TABLE}
    async with console(redis_url) as found:
        assert told.keys() == documented(found)


async def test_what_takes_their_place_is_there(redis_url: str) -> None:
    async with console(redis_url) as found:
        known = {f"{method} {path}" for method, path in documented(found)}
    ours = [each for row in table(page("api"), "mapping") for each in names(row[1])]
    endpoints = [each for each in ours if re.match(r"[A-Z]+ /", each)]
    assert len(endpoints) > 30
    assert set(endpoints) <= known


def test_the_conversion_of_priorities_is_that_of_the_readme() -> None:
    def rows(text: str) -> list[str]:
        return [line for line in text.splitlines() if re.match(r"\| (\d{1,2}|arqd) \|", line)]

    readme = (ROOT / "README.md").read_text("utf-8")
    assert rows(page("api")) == rows(readme)
    assert len(rows(readme)) == 7


# ---------------------------------------------------------------------- api.http


class Asked(NamedTuple):
    """A request of docs/api.http."""

    title: str
    method: str
    url: str
    headers: dict[str, str]
    body: str


def requests(variables: dict[str, str]) -> list[Asked]:
    """Read the file: ``@name = value``, then requests behind ``###``, headers, an empty line, a body."""
    first, *parts = re.split(r"^### ", (ROOT / "docs" / "api.http").read_text("utf-8"), flags=re.MULTILINE)
    for variable, value in re.findall(r"^@(\w+) = (.*)$", first, re.MULTILINE):
        variables.setdefault(variable, value)
    found = []
    for part in parts:
        title, _, rest = part.partition("\n")
        head, _, body = rest.strip().partition("\n\n")
        lines = [line for line in head.splitlines() if not line.startswith("#")]
        method, url = lines[0].split(" ", 1)
        headers = dict(line.split(": ", 1) for line in lines[1:])
        found.append(Asked(title, method, url, headers, body))
    return found


def filled(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: variables[match[1]], text)


async def settled(found: Console) -> bool:
    stats = await found.services.inspector.queue("email")
    return stats.paused or not (stats.waiting or stats.active)


@pytest.fixture
async def served(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_template: Path
) -> AsyncIterator[Console]:
    """The console with an archive, and the worker of the mail family, whose messages go to a spool folder."""
    monkeypatch.chdir(tmp_path)
    database = Database(f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'archive.db')}")
    family = load_family(WorkerSettings)
    async with console(redis_url, family, database=database) as found, working(redis_url, family):
        # A stream has no end: here it is enough that it begins.
        found.services.live.close()
        yield found
    await database.close()


@pytest.mark.timeout(480)
async def test_every_request_of_the_file_can_be_sent(served: Console) -> None:
    _, token = await served.services.tokens.add("file", Role.ADMIN)
    variables = {"host": "http://console", "token": token}
    asked = requests(variables)
    client, used = served.client(), set()
    templates = [(method, path, re.compile(re.sub(r"\{\w+\}", "[^/]+", path))) for method, path in documented(served)]
    for each in asked:
        url, headers = filled(filled(each.url, variables), variables), {
            header: filled(value, variables) for header, value in each.headers.items()
        }  # fmt: skip
        answer = await client.request(each.method, url, headers=headers, content=each.body or None)
        assert answer.status_code < 300, (each.title, answer.text)
        at = answer.request.url.path.removeprefix(API)
        # The fixed paths first: /queues/pause is not a family.
        used.add(min((re.search(r"\{", path) is not None, method, path) for method, path, pattern in templates
                     if method == each.method and pattern.fullmatch(at))[1:])  # fmt: skip
        if each.title.startswith("Send dead letters back with canaries"):
            variables["redrive"] = answer.json()["redrives"][0]["id"]
        if each.url.endswith("/alerts/silence"):
            variables["silence"] = answer.json()["id"]
        await eventually(lambda: settled(served))
    assert used == documented(served)
    kept = json.loads((await client.get(f"{API}/health")).text)
    assert kept["status"] in ("ok", "degraded")


async def test_the_example_and_the_error_are_as_shown(served: Console) -> None:
    client = await served.of("operator")
    (body,) = re.findall(r"-d '(.*)'", page("api"))
    assert (await client.post(f"{API}/jobs", json=json.loads(body))).status_code == 202
    wrong = json.loads(body)
    del wrong["payload"]["to"]
    (shown,) = re.findall(r"```json\n(.*?)```", page("api"), re.DOTALL)
    assert (await client.post(f"{API}/jobs", json=wrong)).json() == json.loads(shown)


# ---------------------------------------------------------------------- access.md


async def test_the_actions_are_those_in_the_code() -> None:
    told = {action for row in table(page("access"), "actions") for action in names(row[0])}
    sources = [*(ROOT / "daemon" / "console").rglob("*.py"), *(ROOT / "daemon" / "cli").glob("*.py")]
    code = "\n".join(path.read_text("utf-8") for path in sources)
    literal = set(re.findall(r'"((?:job|queue|dead|schedule|token|limit|alert)\.(?!html)[a-z]+)"', code))
    prefixes = set(re.findall(r'f"(job|queue|schedule)\.\{', code))
    assert literal <= told
    assert {action.partition(".")[0] for action in told - literal} <= prefixes


def users(url: str, server: Any) -> dict[str, str]:
    """Make the users that the page shows, of the family ``t``; gives their URLs."""
    found = {}
    for line in re.findall(r"^ACL SETUSER .*$", page("access"), re.MULTILINE):
        _, _, user, *rules = line.replace("{email}", "{t}").split()
        password = secrets.token_hex(16)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", user, *[f">{password}" if r == ">…" else r for r in rules])
        found[user] = url.replace("redis://", f"redis://{user}:{password}@")
    return found


async def test_the_users_of_the_page_can_do_their_work_and_no_more(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    urls = users(server.url, server)
    assert urls.keys() == {"console", "worker"}
    family = make_family("t", *FUNCTIONS)
    async with console(urls["console"], family) as found:
        client = await found.of("admin")
        made = await client.post(f"{API}/jobs", json={"function": "plain", "payload": {"n": 1}})
        await run_burst(urls["worker"], family)
        assert (await client.get(made.json()["url"])).json()["state"] == "completed"
        for method, path, _, body in TABLE:
            if method in LOOKS and "{" not in path and path != "/events":
                assert (await client.request(method, API + path, json=body)).status_code == 200, path
        assert (await client.post(f"{API}/queues/t/pause")).status_code == 200
        assert (await found.services.audit.verify()).entries == 2
    async with console(urls["worker"], family) as stranger:
        for key in ("{arqd:console}:tokens", "{arqd:audit}:log"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                await stranger.services.redis.delete(key)
        assert (await stranger.client("arqd_test-admin.x").get(f"{API}/queues")).status_code == 503
