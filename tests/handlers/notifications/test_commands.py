"""``arqd notifications``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.cli.command import main
from handlers.integrations.database import Database
from handlers.integrations.users.inbox import Inbox, Notification

Arqd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arqd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    """Run ``arqd notifications`` in a folder with a database; gives its status and what it prints."""
    monkeypatch.chdir(tmp_path)
    assert main(("db", "upgrade")) == 0
    capsys.readouterr()

    def run(*words: str) -> tuple[int, str, str]:
        status = main(("notifications", *words))
        return status, *capsys.readouterr()

    return run


def test_a_user(arqd: Arqd) -> None:
    assert arqd("set", "ada", "--email", "ada@example.com", "--timezone", "Europe/Paris")[0] == 0
    assert arqd("device", "ada", "phone")[:2] == (0, "the device is added\n")
    assert arqd("prefer", "ada", "push", "--mute", "info", "--mute", "order.paid", "--quiet", "22:00-07:00")[0] == 0
    assert arqd("prefer", "ada", "email", "--off")[0] == 0
    shown = json.loads(arqd("show", "ada")[1])
    assert (shown["email"], shown["timezone"], shown["lang"]) == ("ada@example.com", "Europe/Paris", "en")
    assert shown["preferences"] == {
        "email": {"enabled": False, "muted": [], "quiet": None},
        "push": {"enabled": True, "muted": ["info", "order.paid"], "quiet": "22:00-07:00"},
    }
    assert [each["device_id"] for each in shown["devices"]] == ["phone"]
    assert arqd("device", "ada", "phone", "--remove")[:2] == (0, "the device is removed\n")
    assert arqd("forget", "ada")[0] == 0
    shown = json.loads(arqd("show", "ada")[1])
    assert (shown["email"], shown["preferences"], shown["devices"]) == (None, {}, [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("set", "ada", "--email", "ada"), "this is not one mail address"),
        (("set", "ada", "--timezone", "Mars"), "there is no time zone 'Mars'"),
        (("prefer", "ada", "fax"), "there is no channel 'fax': push or email"),
        (("prefer", "ada", "push", "--quiet", "late"), "quiet hours are written 22:00-07:00"),
        (("device", "ada", "phone", "--remove"), "ada has no such device: arqd notifications show ada"),
    ],
)
def test_errors_are_one_line(arqd: Arqd, words: tuple[str, ...], told: str) -> None:
    status, _, error = arqd(*words)
    assert status == 1
    assert told in error
    assert error.count("\n") == 1


def test_what_was_told(arqd: Arqd, tmp_path: Path) -> None:
    async def tell() -> None:
        database = Database(f"sqlite:///{tmp_path}/var/arqd.db")
        for number in range(3):
            at = datetime(2030, 1, 1, number, tzinfo=UTC)
            await Inbox(database).add(Notification(f"n{number}", "ada", "info", f"title {number}", "b", {}, at))
        await database.close()

    asyncio.run(tell())
    listed = arqd("list", "ada")[1].splitlines()
    assert [line.split()[-1] for line in listed[-3:]] == ["unread"] * 3
    assert "title 2" in listed[-3]
    assert arqd("read", "ada", "n0")[1] == "1 were unread\n"
    assert [each["id"] for each in json.loads(arqd("list", "ada", "--unread", "--json")[1])] == ["n2", "n1"]
    assert arqd("read", "ada")[1] == "2 were unread\n"
    assert json.loads(arqd("list", "ada", "--unread", "--json")[1]) == []
