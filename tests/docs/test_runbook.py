"""docs/operations/runbook.md: every alert is in it, every link leads somewhere, every command can be run."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from pathlib import Path

import pytest

from daemon.alerts.rules import ALERTS
from daemon.cli.command import main
from daemon.connecting.connections import connect
from daemon.family import load_family
from daemon.producer import Producer
from daemon.settings import load_settings
from handlers.email.worker import WorkerSettings
from tests.docs.pages import ROOT, names, page, table
from tests.engine import eventually, working
from tests.marks import one_server

TEXT = page("operations/runbook")
#: What keeps a command short, or the dead letters there for those that follow.
EXTRA = {("profile",): ["--seconds", "0.2"], ("dead", "retry"): ["--dry-run"], ("dead", "discard"): ["--dry-run"]}


def test_every_alert_has_its_row() -> None:
    told = [alert for row in table(TEXT, "alerts") for alert in names(row[0])]
    assert sorted(told) == sorted(ALERTS)


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / "operations" / path).exists() if path else anchor in headings, target


def commands() -> list[list[str]]:
    """Those of the blocks, and those in sentences that start with ``arqd``."""
    blocks = re.findall(r"^\$ (arqd .*)$", TEXT, re.MULTILINE)
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    inline = [text for text in names(prose) if text.startswith("arqd ") and "…" not in text and "run email" not in text]
    return [shlex.split(line)[1:] for line in dict.fromkeys(blocks + inline)]


@one_server
@pytest.mark.timeout(480)
async def test_every_command_runs(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Read once: forty commands would spend most of their time on that.
    config = load_settings({"ARQD_REDIS_URL": redis_url})
    monkeypatch.setattr("daemon.settings.load_settings", lambda *_: config)
    family = load_family(WorkerSettings)
    asked = commands()
    assert len(asked) > 30
    assert await asyncio.to_thread(main, ["db", "upgrade"]) == 0
    async with Producer.connect(redis_url) as producer, working(redis_url, family):
        dead = await producer.enqueue("send_email", {"to": "ada@example.com"}, family="email")
        (cause,) = await eventually(lambda: causes(producer))
        waits = await producer.enqueue("send_email", {"to": "ada@example.com"}, family="email", delay=3600)
        for arguments in asked:
            # What is to be aborted has to wait or run.
            job = waits if arguments[0] == "abort" else dead
            places = {"JOB": job.id, "CAUSE": cause, "WORKER": str(os.getpid()), "TENANT": "acme"}
            filled = [places.get(word, word) for word in arguments]
            filled += EXTRA.get(tuple(filled[:2]), EXTRA.get(tuple(filled[:1]), []))
            capsys.readouterr()
            status = await asyncio.to_thread(main, filled)
            out, err = capsys.readouterr()
            if filled[0] == "pause":
                assert await asyncio.to_thread(main, ["resume", "email"]) == 0
            # The machine of the tests may lack what arqd check looks for; that it runs is enough.
            assert status == 0 or (filled[0] == "check" and "OK" in out), (arguments, err)


async def causes(producer: Producer) -> list[str]:
    return [name.decode() for name in await producer.redis.hkeys("{email}:causes")]


@one_server
async def test_what_to_see_inside_redis_can_be_asked(redis_url: str) -> None:
    redis = connect(redis_url)
    async with Producer.connect(redis_url) as producer:
        await producer.enqueue("send_email", {"to": "ada@example.com"}, family="email")
    for row in table(TEXT, "keys"):
        (command,) = names(row[1])
        await redis.execute_command(*shlex.split(command))
    assert len(await redis.execute_command("ZRANGEBYSCORE", "arq:{email}", "-inf", "(0", "LIMIT", "0", "10")) == 1
    await redis.aclose()
