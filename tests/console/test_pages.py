"""The dashboard without a browser: who may open and change what, forged requests, redirects, errors, geometry."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from daemon.console.pages import formats
from daemon.console.pages.board import BoardReader
from daemon.console.pages.charts import chart, spark
from daemon.console.pages.dashboard import MODULES, Dashboard
from daemon.console.pages.functions import Function, example, payload_fields
from daemon.console.roles import Role
from daemon.registry import adopt
from daemon.statistics import Figures, Point
from handlers.email.payloads import SendEmail
from tests.asking import FUNCTIONS
from tests.conftest import RedisServerFactory
from tests.console.browser.shop import Pay
from tests.console.support import Console, console
from tests.docs.pages import name, page, table

PAGES = [(name(address), Role(role)) for address, role, _ in table(page("dashboard"), "pages")]
#: Pages that ask, and forms: address, fields.
QUESTIONS = (
    "/queues/t/limits", "/queues/t/drain", "/queues/t/clean", "/queues/t/clear", "/queues/t/retry", "/queues/*/pause",
    "/dead/retry", "/dead/discard", "/confirm/remove?id=t:one", "/schedules/add",
)  # fmt: skip
FORMS = {
    "/queues/t/pause": {}, "/queues/t/resume": {}, "/queues/*/pause": {}, "/queues/t/drain": {}, "/queues/t/clean": {},
    "/queues/t/clear": {}, "/queues/t/retry": {}, "/queues/t/limits": {"scope": "queue", "rate": "5/s"},
    "/jobs/act": {"action": "remove", "id": "t:one", "confirmed": "yes"}, "/dead/retry": {}, "/dead/discard": {},
    "/dead/archive": {}, "/dead/archive/retry": {"number": "1"},
    "/dead/cancel": {"redrive": "none"}, "/enqueue": {"function": "t/ask", "payload": '{"question": "why"}'},
    "/schedules/add": {"name": "s", "function": "t/plain", "cron": "0 2 * * *"}, "/schedules/edit": {"name": "t:s"},
    "/schedules/pause": {"name": "t:s"}, "/schedules/resume": {"name": "t:s"}, "/schedules/run": {"name": "t:s"},
    "/schedules/remove": {"name": "t:s"}, "/alerts/silence": {"alert": "paused", "subject": "t", "for": "1h"},
    "/alerts/unsilence": {"silence": "none"},
}  # fmt: skip


@pytest.fixture
async def site(redis_url: str) -> AsyncIterator[Console]:
    async with console(redis_url, pages=Dashboard()) as found:
        await found.services.producer.enqueue("ask", {"question": "why"}, family="t", job_id="one", delay=600)
        yield found


def test_every_page_is_documented() -> None:
    routes = [route for module in MODULES for route in module.router.routes]
    found = {
        route.path.replace(":path", "")  # type: ignore[attr-defined]
        for route in routes
        if "GET" in getattr(route, "methods", ()) and "action" not in route.path  # type: ignore[attr-defined]
    }
    asked = {path.partition("?")[0] for path in QUESTIONS} | {"/queues/{family}/limits"}
    others = {"/changes", "/find", "/login", "/schedules/edit", "/schedules/remove"}
    assert found - asked - others == {address for address, _ in PAGES}


@pytest.mark.parametrize("role", [None, *Role])
async def test_who_may_open_what(site: Console, role: Role | None) -> None:
    client = site.client() if role is None else (await site.browser(role))[0]
    pages = [(path.format(family="t", id="t:one", cause="0123456789"), least) for path, least in PAGES]
    for path, least in [*pages, *((path, Role.OPERATOR) for path in QUESTIONS)]:
        answer = await client.get(path, follow_redirects=role is not None)
        head = await client.head(path, follow_redirects=role is not None)
        assert (head.status_code, head.headers.keys(), head.content) == (answer.status_code, answer.headers.keys(), b"")
        if role is None:
            assert (answer.status_code, answer.headers["location"][:12]) == (303, "/login?next="), path
        elif not role.includes(least):
            assert answer.status_code == 403, path
            assert "needs the role operator" in answer.text
        else:
            assert answer.status_code == (404 if "0123456789" in path else 200), (path, answer.text)
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert not re.search(r"<script(?! type=\"module\" src=)|\sstyle=|\son[a-z]+=", answer.text), path


async def test_who_listens_and_is_not_logged_in_gets_no_page_to_log_in(site: Console) -> None:
    answer = await site.client().get("/changes", headers={"accept": "text/event-stream"})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", FORMS)
async def test_who_may_change_what(site: Console, path: str) -> None:
    fields = FORMS[path]
    viewer, token = await site.browser(Role.VIEWER)
    assert (await viewer.post(path, data={**fields, "csrf": token})).status_code == 403
    assert (await site.client().post(path, data=fields)).status_code == 401
    operator, token = await site.browser(Role.OPERATOR)
    for forged in ({}, {"csrf": "x" * len(token)}):
        answer = await operator.post(path, data={**fields, **forged})
        assert (answer.status_code, "CSRF token" in answer.text) == (403, True)
    assert (await site.services.inspector.queue("t")).delayed == 1
    answer = await operator.post(path, data={**fields, "csrf": token})
    assert answer.status_code in (303, 422), answer.text


async def test_revealing_is_for_admins_and_audited(site: Console) -> None:
    operator, token = await site.browser(Role.OPERATOR)
    assert (await operator.post("/jobs/reveal", data={"id": "t:one", "csrf": token})).status_code == 403
    admin, token = await site.browser(Role.ADMIN)
    answer = await admin.post("/jobs/reveal", data={"id": "t:one", "csrf": token})
    assert (answer.status_code, "written to the audit log" in answer.text) == (200, True)
    (entry, *_) = (await site.services.audit.page()).entries
    assert (entry.action, entry.target, entry.actor) == ("job.reveal", "t:one", "ada")


async def test_a_form_leads_nowhere_else(site: Console) -> None:
    client, token = await site.browser(Role.OPERATOR)
    for back in (
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "/\\elsewhere.example",
        "/a\r\nset-cookie: b=c",
        "",
    ):
        answer = await client.post("/queues/t/pause", data={"csrf": token, "back": back})
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), back
        assert (await client.post("/theme", data={"theme": "dark", "back": back})).headers["location"] == "/"
    answer = await client.post("/queues/t/pause", data={"csrf": token, "back": "/queues/t?state=failed"})
    assert answer.headers["location"] == "/queues/t?state=failed"


async def test_a_notice_is_shown_once_and_not_used_up_by_a_part(site: Console) -> None:
    client, token = await site.browser(Role.OPERATOR)
    await client.post("/queues/t/pause", data={"csrf": token})
    part = await client.get("/", headers={"x-arqd-part": "1"})
    assert ">t is paused<" in part.text
    assert ">t is paused<" in (await client.get("/")).text
    assert ">t is paused<" not in (await client.get("/")).text
    client.cookies.set("arqd_notice", "nonsense")
    assert (await client.get("/")).status_code == 200


async def test_below_a_base_path(redis_url: str) -> None:
    async with console(redis_url, pages=Dashboard(), base_path="/admin/queues") as site:
        client = site.client()
        code = await site.services.sessions.make_link("ada", Role.ADMIN)
        assert (await client.get(f"/admin/queues/login/{code}")).headers["location"] == "/admin/queues/"
        text = (await client.get("/admin/queues/")).text
        assert set(re.findall(r'(?:href|src|action)="(?!#)(/[^/"]*)', text)) == {"/admin"}
        assert (await client.get("/admin/queues/static/app.js")).status_code == 200
        assert (await client.get("/")).status_code == 404


async def test_read_only_shows_no_forms(redis_url: str) -> None:
    async with console(redis_url, pages=Dashboard(), read_only=True) as site:
        client, token = await site.browser(Role.ADMIN)
        text = (await client.get("/")).text
        assert "Pause" not in text
        assert "Enqueue a job" not in text
        answer = await client.post("/queues/t/pause", data={"csrf": token})
        assert (answer.status_code, "read-only" in answer.text) == (403, True)
        assert (await client.post("/theme", data={"theme": "dark"})).status_code == 303


async def test_static_files(site: Console) -> None:
    for path in (Path(__file__).parents[2] / "daemon/console/static").iterdir():
        answer = await site.anyone.get(f"/static/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
    for missing in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py"):
        assert (await site.anyone.get(f"/static/{missing}")).status_code == 404


async def test_redis_away_is_told_on_a_page(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with console(server.url, pages=Dashboard()) as site:
        client, _ = await site.browser()
        server.stop()
        answer = await client.get("/queues/t")
        assert (answer.status_code, "Redis cannot be reached" in answer.text) == (503, True)
        assert answer.headers["content-type"].startswith("text/html")
        server.start()


async def test_a_queue_with_markup_in_its_name(redis_url: str) -> None:
    nasty = "<img src=x onerror=alert(1)>\"'&"
    dumps = staticmethod(lambda data: b"")
    plain = {"queue_name": nasty, "functions": FUNCTIONS[:1], "job_serializer": dumps, "job_deserializer": dumps}
    async with console(redis_url, adopt(type("Plain", (), plain)), pages=Dashboard()) as site:
        client, _ = await site.browser()
        (family,) = site.services.families
        assert nasty in family
        address = "/queues/" + "".join(f"%{byte:02X}" for byte in family.encode())
        for path in ("/", f"{address}?state=failed", "/enqueue", "/dead", f"{address}/drain"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "<img" not in answer.text
            assert "&lt;img src=x onerror=alert(1)&gt;" in answer.text


@pytest.mark.parametrize("path", ["/queues/t/drain", "/queues/t/clear", "/dead/discard", "/jobs/act", "/schedules/run"])
async def test_a_form_takes_no_json(site: Console, path: str) -> None:
    """Who leaves out /api/v1 before it means a dry run, and would get a real one."""
    client = await site.of(Role.OPERATOR)
    answer = await client.post(path, json={"dry_run": True})
    assert (answer.status_code, "/api/v1" in answer.text) == (422, True)
    assert (await site.services.inspector.queue("t")).delayed == 1


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("/dead/retry", {"canaries": "nan"}, "canaries is a number"),
        ("/dead/retry", {"rate": "inf"}, "rate is a number"),
        ("/dead/retry", {"canaries": "1.5"}, "canaries is a whole number"),
        ("/queues/t/clean", {"count": "9" * 5000}, "count is a number"),
        ("/dead/archive/retry", {"number": "9" * 5000}, "number is that of a letter"),
    ],
)
async def test_a_number_that_cannot_be_meant_is_told(
    site: Console, path: str, fields: dict[str, str], told: str
) -> None:
    client = await site.of(Role.OPERATOR)
    answer = await client.post(path, data=fields)
    assert answer.status_code == 303, answer.text
    assert told in (await client.get("/queues/t/limits")).text


async def test_a_limit_of_a_function_that_nobody_has_is_told_as_such(site: Console) -> None:
    client = await site.of(Role.OPERATOR)
    for function, told in (("ask", False), ("akk", True)):
        fields = {"scope": "function", "name": function, "rate": "5/s"}
        assert (await client.post("/queues/t/limits", data=fields)).status_code == 303
        page = (await client.get("/workers")).text
        assert f"Limits of function {function} are set" in page
        assert ("t has no function" in page) is told


async def test_a_limit_of_a_kind_of_groups_is_set_and_shown(site: Console) -> None:
    client = await site.of(Role.OPERATOR)
    fields = {"scope": "group", "name": "ordered:*", "concurrency": "1"}
    assert (await client.post("/queues/t/limits", data=fields)).status_code == 303
    page = (await client.get("/queues/t/limits")).text
    assert "Limits of group ordered:* are set" in page
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*ordered:\*</span>.*?</tr>", page)
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row) == ["1", "none", "operator", "–"]


async def test_what_is_wrong_with_a_job_is_told_as_what_it_is(site: Console) -> None:
    client = await site.of(Role.OPERATOR)
    deep = "[" * 100_000
    for fields, told in (
        ({"function": "none"}, "choose a function"),
        ({"function": "t/ask", "payload": deep}, "the payload is not JSON"),
        ({"function": "t/ask", "payload": '{"question": "why"}', "priority": "9" * 5000}, "use 1 (first) to 10 (last)"),
    ):
        answer = await client.post("/enqueue", data=fields)
        assert (answer.status_code, told.lower() in answer.text.lower()) == (422, True), told
    fields = {"name": "s", "function": "t/plain", "cron": "0 2 * * *", "count": "9" * 5000}
    answer = await client.post("/schedules/add", data=fields)
    assert (answer.status_code, "a number of runs" in answer.text) == (422, True)


async def test_a_schedule_whose_times_are_emptied_is_not_told_to_be_changed(site: Console) -> None:
    client = await site.of(Role.OPERATOR)
    fields = {"name": "s", "function": "t/plain", "payload": "{}", "cron": "0 2 * * *"}
    assert (await client.post("/schedules/add", data=fields)).status_code == 303
    answer = await client.post("/schedules/edit", data={**fields, "name": "t:s", "cron": ""})
    assert (answer.status_code, "give cron or every" in answer.text) == (422, True)
    answer = await client.post("/schedules/edit", data={**fields, "name": "t:s", "cron": "", "every": "1h"})
    assert (answer.status_code, (await site.services.schedules.get("t:s")).cron) == (303, "@every 3600s")


async def test_two_who_look_at_once_see_each_minute_once(site: Console) -> None:
    reader = BoardReader(site.services.inspector)
    await reader.series("t", "1h")
    kept = reader._series["t", "1h"]
    for _ in range(5):
        kept.pop()
    both = await asyncio.gather(reader.series("t", "1h"), reader.series("t", "1h"))
    for points in (*both, await reader.series("t", "1h")):
        times = [point.at for point in points]
        assert times == sorted(set(times))
        assert len(times) == 60


async def test_a_wrong_filter_or_cursor_is_told_on_the_page(site: Console) -> None:
    client, _ = await site.browser(Role.VIEWER)
    for query, told in (
        ("since=yesterday", "write a time with its zone"),
        ("cursor=nonsense", "leave it out to begin anew"),
        ("q=word", "Search is off in family"),
        ("group=anna&state=completed", "no group is kept"),
    ):
        answer = await client.get(f"/queues/t?{'' if 'state' in query else 'state=delayed&'}{query}")
        assert (answer.status_code, told in answer.text) == (200, True), query


# ---------------------------------------------------------------------- functions


class Choice(BaseModel):
    lang: Literal["en", "fr"]
    sizes: list[int] | None = None


def points(*ended: tuple[int, int]) -> list[Point]:
    begin = datetime(2030, 1, 31, 8, tzinfo=UTC)
    return [
        Point(begin + timedelta(minutes=n), Figures(completed=done, failed=failed))
        for n, (done, failed) in enumerate(ended)
    ]


def test_a_chart_stacks_its_series_up_to_a_round_number() -> None:
    found = chart("Jobs", points((60, 20), (0, 0), (1, 0)), "minute", "completed", "failed")
    assert (found.top, found.width, [each.total for each in found.series]) == (80, 30, [61, 20])
    (ok, bad), none, (one,) = [column.parts for column in found.columns]
    assert (ok.y, ok.height, bad.y, bad.height) == (25, 75, 0, 25)
    assert (none, one.height) == ([], 1.5)
    assert found.columns[0].title == "08:00 UTC: 60 completed, 20 failed"
    assert "61 completed, 20 failed in the last 3 minutes" in found.summary
    empty = chart("Jobs", [], "hour", "completed")
    assert (empty.columns, empty.labels, empty.top) == ([], [], 4)


def test_a_spark_is_nothing_where_nothing_ended() -> None:
    assert spark(points((0, 0))) is None
    found = spark(points((3, 1), (0, 0), (4, 0)))
    assert found is not None
    assert (found.ok.count("M"), found.bad.count("M"), found.summary) == (
        2,
        1,
        "7 completed and 1 failed; at most 4 at once",
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.short(999), "999"), (formats.short(1000), "1k"), (formats.short(12_345), "12.3k"),
        (formats.short(999_999), "1M"), (formats.short(0), "0"), (formats.short(None), "–"),
        (formats.number(1234567), "1,234,567"), (formats.number(2.25), "2.2"), (formats.duration(0.0042), "4.2 ms"),
        (formats.duration(0.34), "340 ms"), (formats.duration(9.5), "9.5 s"), (formats.duration(600), "10 min"),
        (formats.duration(3.7e-6), "3.7 µs"), (formats.duration(0), "0 ms"),
        (formats.duration(None), "–"), (formats.size(1_200_000), "1.2 MB"), (formats.size(12), "12 B"),
        (formats.percent(1, 0), "–"), (formats.percent(1, 40), "2.5 %"), (formats.percent(0, 9), "0 %"),
        (formats.ago(datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, 3, tzinfo=UTC)), "3 h ago"),
        (formats.ago(datetime(2030, 1, 2, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)), "in 24 h"),
        (formats.line({"a": "x" * 300})[-2:], " …"), (formats.line(None), ""), (formats.first_line("a\nb"), "a"),
    ],
)  # fmt: skip
def test_how_values_are_written(written: str, expected: str) -> None:
    assert written == expected


def test_commands_in_a_text() -> None:
    pieces = formats.ticks("`arqd retry a` sends it back; a ` alone is one")
    assert pieces == [(False, ""), (True, "arqd retry a"), (False, " sends it back; a ` alone is one")]


def test_json_in_pieces() -> None:
    value = {'a"b': [1.5, None, "c: <x>"], "d": True}
    pieces = list(formats.tokens(value))
    assert (
        "".join(text for _, text in pieces)
        == '{\n  "a\\"b": [\n    1.5,\n    null,\n    "c: <x>"\n  ],\n  "d": true\n}'
    )
    assert [pair for pair in pieces if pair[0]] == [
        ("key", '"a\\"b"'), ("number", "1.5"), ("word", "null"), ("text", '"c: <x>"'), ("key", '"d"'), ("word", "true"),
    ]  # fmt: skip
    assert "characters more" in list(formats.tokens("x" * 300_000))[-1][1]


def test_what_a_payload_takes_in_words() -> None:
    fields = {field.name: field for field in payload_fields(Function("email", "send_email", SendEmail))}
    assert fields["subject"].required
    assert (fields["subject"].type, fields["attachments"].type[:8]) == ("text", "list of ")
    assert [field.type for field in payload_fields(Function("mail", "pay", Pay))] == ["text", "secret text"]
    fields = {field.name: field for field in payload_fields(Function("t", "f", Choice))}
    assert fields["lang"].type == 'one of "en", "fr"'
    assert (fields["sizes"].type, fields["sizes"].default) == ("list of whole number or null", "null")
    assert example(Function("t", "f")) == "{}"
    assert '"subject": ""' in example(Function("email", "send_email", SendEmail))
