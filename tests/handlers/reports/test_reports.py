"""Reports by a real worker: their figures counted again, their PDF read back."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pypdf
import pytest
from pydantic import SecretStr

from daemon.errors import JobFailed
from daemon.family import load_family
from daemon.keys import FamilyKeys
from daemon.producer import Producer
from daemon.testing.handlers import run_handler
from handlers.integrations.database import Database
from handlers.integrations.database_settings import DatabaseSettings
from handlers.reports.analytics import EVENTS
from handlers.reports.payloads import GenerateReport
from handlers.reports.settings import ReportsSettings
from handlers.reports.tasks import generate_report
from handlers.reports.worker import WorkerSettings, close_reports, open_reports
from tests.handlers.reports.conftest import Press
from tests.handlers.reports.metrics import orders_at

ALL = ("pdf", "csv", "json")
#: The week of 2 March 2026, and the one before.
WEEK = [datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=n) for n in range(7)]
BEFORE = [at - timedelta(days=7) for at in WEEK]


async def test_the_weekly_report_counted_again(press: Press) -> None:
    job = GenerateReport(kind="weekly", period="2026-W10", formats=ALL, metrics=("orders",))
    result, files = await press.make(job)
    assert (result.period, result.empty, set(result.report_urls)) == ("2026-03-02/2026-03-08", False, set(ALL))
    now, before = sum(map(orders_at, WEEK)), sum(map(orders_at, BEFORE))
    assert now != before

    (told,) = json.loads(files["json"])["metrics"]
    assert (told["value"], told["before"]) == (now, before)
    assert told["change"] == pytest.approx(now / before - 1)
    steps = [(step["at"], step["value"], step["before"]) for step in told["series"]]
    assert steps == [(a.isoformat(), orders_at(a), orders_at(b)) for a, b in zip(WEEK, BEFORE, strict=True)]
    parts = [(part["name"], part["value"]) for part in told["parts"]]
    assert parts == [("web", now - 10), ("=shop", 10), ("＝café", 1)]

    rows = list(csv.DictReader(io.StringIO(files["csv"].decode(), newline="")))
    assert [float(row["value"]) for row in rows if row["scope"] == "step"] == [orders_at(at) for at in WEEK]
    assert [(float(row["value"]), float(row["before"])) for row in rows if row["scope"] == "total"] == [(now, before)]
    assert [row["at"] for row in rows if row["scope"] == "part"] == ["web", "'=shop", "'＝café"]

    text = "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(files["pdf"])).pages)
    for shown in ("Weekly report", "2 March 2026 – 8 March 2026", "23 February 2026", "Orders", f"{now:,}", "Sun 8"):
        assert shown in text
    assert f"{'+' if now > before else '−'}{abs(now / before - 1) * 100:.1f}%" in text


async def test_the_pdf_has_its_fonts_pages_and_drawn_charts(press: Press) -> None:
    names = ("orders", "jobs_completed", "jobs_failed", "jobs_retried", "jobs_failure_rate")
    job = GenerateReport(kind="weekly", period="2026-W10", metrics=names, lang="fr")
    _, files = await press.make(job)
    reader = pypdf.PdfReader(io.BytesIO(files["pdf"]))
    pages = [page.extract_text() for page in reader.pages]
    assert len(pages) >= 2
    for number, text in enumerate(pages, 1):
        assert f"Page {number} sur {len(pages)}" in text
    assert "Rapport hebdomadaire" in pages[0]
    assert "1er mars 2026" in pages[0]
    assert "Tâches terminées" in "".join(pages)
    assert reader.root_object["/Lang"] == "fr"
    fonts = [font for page in reader.pages for font in page["/Resources"]["/Font"].values()]
    assert fonts
    for font in fonts:
        (below,) = font.get_object()["/DescendantFonts"]
        described = below.get_object()["/FontDescriptor"].get_object()
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(described)
    assert [image for page in reader.pages for image in page.images] == []


async def test_the_system_s_own_figures(press: Press, producer: Producer) -> None:
    # Twelve days, of fourteen that are kept whole: it may become midnight in between.
    today = datetime.now(UTC).date()
    first = today - timedelta(days=6)
    begin = datetime.combine(first - timedelta(days=6), datetime.min.time(), UTC)
    counted: dict[date, list[int]] = {}
    for hour in range(12 * 24):
        at = begin + timedelta(hours=hour)
        done, failed = hour % 5 + 1, hour % 3
        key = FamilyKeys.of("email").key("stats", "h", str(int(at.timestamp()) // 3600))
        await producer.redis.hset(key, mapping={"send_email\x1fc": done, "send_email\x1fb": failed})
        sums = counted.setdefault(at.date(), [0, 0])
        sums[0] += done
        sums[1] += failed
    metrics = ("jobs_completed", "jobs_failed", "jobs_failure_rate")
    period = f"{first}/{today - timedelta(days=1)}"
    data = await press.data(GenerateReport(kind="custom", period=period, formats=("json",), metrics=metrics))
    days = sorted(counted)
    for told, which in zip(data["metrics"][:2], (0, 1), strict=True):
        assert [step["value"] for step in told["series"]] == [counted[day][which] for day in days[6:]]
        assert [step["before"] for step in told["series"]] == [counted[day][which] for day in days[:6]]
        assert told["value"] == sum(counted[day][which] for day in days[6:])
        assert [part["name"] for part in told["parts"]] == ["email"]
    done, failed = (sum(counted[day][which] for day in days[6:]) for which in (0, 1))
    assert data["metrics"][2]["value"] == pytest.approx(failed / (done + failed))


async def test_what_is_no_longer_kept_is_not_nothing(press: Press) -> None:
    long_ago = datetime.now(UTC).date() - timedelta(days=60)
    period = f"{long_ago}/{long_ago + timedelta(days=2)}"
    data = await press.data(
        GenerateReport(kind="custom", period=period, formats=("json",), metrics=("jobs_completed",))
    )
    assert [step["value"] for step in data["metrics"][0]["series"]] == [None] * 3
    assert data["metrics"][0]["value"] is None


async def test_money_as_databases_add_it_up(press: Press) -> None:
    data = await press.data(GenerateReport(kind="daily", period="2026-03-02", formats=("json",), metrics=("revenue",)))
    (figure,) = data["metrics"]
    assert (figure["value"], figure["parts"][0]["value"]) == (pytest.approx(24 * 19.99), 1.5)


@pytest.mark.parametrize(("lang", "told"), [("en", "There are no data"), ("fr", "Aucune donnée pour cette période")])
async def test_a_report_without_data_says_so(press: Press, lang: Any, told: str) -> None:
    job = GenerateReport(kind="daily", period="2026-03-02", formats=ALL, metrics=("nothing",), lang=lang)
    result, files = await press.make(job)
    assert result.empty
    assert told in pypdf.PdfReader(io.BytesIO(files["pdf"])).pages[0].extract_text()
    assert told in files["csv"].decode()
    assert told in json.loads(files["json"])["note"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"metrics": ("order",)}, "there is no metric 'order': there are .*jobs_completed.*ARQD_REPORTS__METRICS"),
        ({"metrics": ("endless",)}, "endless gives 'inf', which is no number"),
        ({"metrics": ("short",)}, "short gives 1 numbers for 24 steps"),
        ({"period": "2999-01-01"}, "the period 2999-01-01 has not begun"),
    ],
)
async def test_what_cannot_heal_is_permanent(press: Press, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(JobFailed, match=told) as caught:
        await press.make(GenerateReport(**{"kind": "daily", "period": "2026-03-02", **fields}))
    assert caught.value.reason == "permanent"


async def test_mails_and_progress(settings: SimpleNamespace) -> None:
    modules = ("tests.handlers.reports.metrics",)
    settings.reports = ReportsSettings(metrics=modules, mail_to="ada@example.com, grace@example.com", lang="fr")
    ctx: dict[Any, Any] = {"settings": settings}
    await open_reports(ctx)
    fields: dict[str, Any] = {"period": "2026-03-02", "formats": ("json",), "metrics": ("orders",)}
    job = GenerateReport(kind="daily", **fields)
    run = await run_handler(generate_report, job, settings=WorkerSettings, ctx=ctx)
    assert run.value().mailed
    assert [percent for percent, _ in run.progress] == [0, 30, 60, 90, 100]
    assert [each.payload["to"] for each in run.enqueued] == ["ada@example.com", "grace@example.com"]
    context = run.enqueued[0].payload["context"]
    assert (context["report_name"], context["period"]) == ("Rapport quotidien", "2 mars 2026")
    assert context["report_url"] == run.value().report_urls["json"]
    other = GenerateReport(kind="custom", **fields)
    assert (await run_handler(generate_report, other, settings=WorkerSettings, ctx=ctx)).enqueued == []
    await close_reports(ctx)


def test_schedules() -> None:
    due = {each.schedule.name: each.schedule.expression for each in load_family(WorkerSettings).schedules}
    assert due == {"daily": "0 6 * * *", "weekly": "0 8 * * 1"}
    assert {each.schedule.timezone for each in load_family(WorkerSettings).schedules} == {"UTC"}


async def test_the_events_of_analytics_where_they_are(settings: SimpleNamespace, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'events.db'}")
    async with database.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE arqd_analytics_events (name TEXT, at DATETIME, user_id TEXT)")
        rows = [(0, "view", "a"), (0, "view", "b"), (5, "view", "a"), (23, "buy", "a"), (24, "view", "c")]
        for hour, name, user in rows:
            row = {"name": name, "at": WEEK[0] + timedelta(hours=hour), "user_id": user}
            await connection.execute(EVENTS.insert().values(row))
    await database.close()
    settings.has_database, settings.database = True, DatabaseSettings()
    settings.database_url = SecretStr(f"sqlite:///{tmp_path / 'events.db'}")
    ctx: dict[Any, Any] = {"settings": settings}
    await open_reports(ctx)
    job = GenerateReport(kind="daily", period="2026-03-02", formats=("json",), metrics=("events", "visitors"))
    run = await run_handler(generate_report, job, settings=WorkerSettings, ctx=ctx)
    path = Path(run.value().report_urls["json"].removeprefix("file://"))
    events, visitors = json.loads(await asyncio.to_thread(path.read_bytes))["metrics"]
    assert (events["value"], {part["name"]: part["value"] for part in events["parts"]}) == (4, {"view": 3, "buy": 1})
    assert [step["value"] for step in events["series"]][:6] == [2, 0, 0, 0, 0, 1]
    assert (visitors["value"], visitors["series"][0]["value"], visitors["series"][23]["value"]) == (2, 2, 1)
    await close_reports(ctx)
