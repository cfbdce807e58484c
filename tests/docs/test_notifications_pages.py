"""docs/families/notifications.md and push.md: programs print what stands there, tables name what there is."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.family import load_family
from daemon.settings import load_settings
from handlers.integrations.database import Database
from handlers.integrations.texts import LARGEST_PUSH_DATA
from handlers.integrations.users.inbox import Inbox
from handlers.integrations.users.store import Users
from handlers.notifications.payloads import Notified, NotifyUser
from handlers.notifications.tasks import MAIL_PRIORITY, SHOWN
from handlers.notifications.worker import WorkerSettings as Notifications
from handlers.push.payloads import SendPush
from handlers.push.worker import WorkerSettings as Push
from tests.docs.pages import ROOT, page
from tests.engine import working
from tests.handlers.push.onesignal import OneSignalServer

NOTIFICATIONS, PUSH = page("families/notifications"), page("families/push")


def programs(text: str, folder: Path) -> None:
    for name, program in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(program)


async def run(name: str, folder: Path, **environ: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        name,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environ,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 100)
    return printed.decode()


async def test_the_programs_on_notifications(redis_url: str, database_url: str, tmp_path: Path) -> None:
    programs(NOTIFICATIONS, tmp_path)
    family = load_family(Notifications)
    family.ctx["settings"] = load_settings({"ARQD_DATABASE_URL": database_url})
    (block,) = re.findall(r"```console\n(.*?)```", NOTIFICATIONS, re.DOTALL)
    async with working(redis_url, family):
        for name, promised in re.findall(r"^\$ python (\S+)\n((?:[^$\n].*\n)*)", block, re.MULTILINE):
            assert await run(name, tmp_path, ARQD_REDIS_URL=redis_url, ARQD_DATABASE_URL=database_url) == promised


async def test_the_program_on_pushes(redis_url: str, database_url: str, database: Database, tmp_path: Path) -> None:
    programs(PUSH, tmp_path)
    for phone in ("one", "two"):
        await Users(database).add_device("ada", phone)
    async with OneSignalServer(str(uuid.uuid4()), secrets.token_hex(16)) as onesignal:
        family = load_family(Push)
        family.ctx["settings"] = load_settings(
            {
                "ARQD_DATABASE_URL": database_url,
                "ARQD_PUSH__APP_ID": onesignal.app_id,
                "ARQD_PUSH__API_KEY": onesignal.api_key,
                "ARQD_PUSH__URL": onesignal.url,
            }
        )
        (promised,) = re.findall(r"```text\n(.*?)```", PUSH, re.DOTALL)
        async with working(redis_url, family):
            assert await run("ring.py", tmp_path, ARQD_REDIS_URL=redis_url) == promised


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(("db", "upgrade")) == 0
    (block,) = re.findall(r"```sh\n(arqd notifications.*?)```", NOTIFICATIONS, re.DOTALL)
    for line in block.splitlines():
        assert main(line.split()[1:]) == 0, line


def fields(text: str) -> set[str]:
    """Give what the first column of the table of fields names."""
    table = text.partition("| field | |")[2].partition("\n\n")[0]
    return {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_the_tables_name_what_there_is() -> None:
    assert fields(NOTIFICATIONS) == set(NotifyUser.model_fields)
    assert fields(PUSH) == set(SendPush.model_fields)
    (result,) = re.findall(r"The result is `\{(.*?)\}`", NOTIFICATIONS)
    assert set(re.findall(r'"(\w+)"', result)) == set(Notified.model_fields)
    for cell in re.findall(r"^\| (`(?:Users|Inbox)\..*?) \|", NOTIFICATIONS, re.MULTILINE):
        kind: Any = Users if "Users" in cell else Inbox
        for name in re.findall(r"`(?:\w+\.)?(\w+)[`(]", cell):
            assert callable(getattr(kind, name)), name


def test_numbers_are_as_told() -> None:
    assert f"up to {SHOWN} characters" in NOTIFICATIONS
    assert f"at priority {MAIL_PRIORITY}" in NOTIFICATIONS
    assert f"over {LARGEST_PUSH_DATA:,} bytes" in NOTIFICATIONS
    assert f"at most {LARGEST_PUSH_DATA:,} bytes" in PUSH
    values = load_family(Push).values
    assert f"{values.rate_limit.count} pushes a second" in PUSH  # type: ignore[union-attr]
    assert f"{values.max_jobs} at the same time" in PUSH
    assert f"({values.max_tries} tries, from 2 s)" in PUSH
