"""Users, what they want and what they were told, on both databases; quiet hours where clocks go forward and back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from handlers.integrations.database import Database
from handlers.integrations.users.inbox import Inbox, Notification
from handlers.integrations.users.preferences import InvalidUser, Preference, QuietHours
from handlers.integrations.users.store import User, Users
from handlers.maintenance.rows import remove_rows
from tests.docs.pages import page

NIGHT = QuietHours(time(22), time(7))


@pytest.fixture
async def users(database: Database) -> Users:
    return Users(database)


@pytest.fixture
async def inbox(database: Database) -> Inbox:
    return Inbox(database)


# ---------------------------------------------------------------- who they are


async def test_a_user_nobody_saved_has_the_defaults(users: Users) -> None:
    assert await users.find("ada") == User("ada", None, None, "en", "UTC")
    assert await users.preferences("ada") == {}


async def test_saving_changes_only_what_is_given(users: Users) -> None:
    await users.save("ada", email="ada@example.com", timezone="Europe/Paris")
    saved = await users.save("ada", name="Ada", lang="fr")
    assert saved == await users.find("ada") == User("ada", "ada@example.com", "Ada", "fr", "Europe/Paris")
    assert (await users.save("ada", email="")).email is None
    assert await users.save("ada") == User("ada", None, "Ada", "fr", "Europe/Paris")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"email": "ada"}, "email: this is not one mail address"),
        ({"lang": "french!"}, "lang is a language tag"),
        ({"timezone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"timezone": "../../etc/passwd"}, "there is no time zone"),
        ({"name": "A\nda"}, "a name is one line"),
    ],
)
async def test_what_cannot_be_used_is_not_saved(users: Users, values: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidUser, match=told):
        await users.save("ada", **values)
    assert await users.find("ada") == User("ada")
    with pytest.raises(InvalidUser, match="a user's id"):
        await users.save("a\nb")


async def test_preferences_are_by_channel(users: Users) -> None:
    mail = Preference(enabled=True, muted=frozenset({"info", "order.paid"}), quiet=NIGHT)
    await users.prefer("ada", "email", Preference(enabled=False))
    await users.prefer("ada", "email", mail)
    assert await users.preferences("ada") == {"email": mail}
    assert (mail.refuses("info"), mail.refuses("error")) == ("the user has muted info", None)
    assert Preference(enabled=False).refuses("error") == "disabled by the user"
    with pytest.raises(InvalidUser, match="no channel 'fax'"):
        await users.prefer("ada", "fax", mail)  # type: ignore[arg-type]


async def test_devices(users: Users) -> None:
    for device in ("one", "two"):
        await users.add_device("ada", device)
    assert [device.device_id for device in await users.devices("ada")] == ["two", "one"]
    now = datetime.now(UTC)
    assert await users.disable_devices("ada", ["one", "another"], "gone", now) == 1
    assert await users.disable_devices("ada", ["one"], "gone", now) == 0
    assert [device.device_id for device in await users.devices("ada", usable=True)] == ["two"]
    # It was added again after that was asked: the answer is old.
    await users.add_device("ada", "one")
    assert await users.disable_devices("ada", ["one"], "gone", now) == 0
    # Another user logs in on the same phone.
    await users.add_device("bob", "two")
    assert [device.device_id for device in await users.devices("ada")] == ["one"]
    assert not await users.remove_device("ada", "two")
    assert await users.remove_device("bob", "two")
    with pytest.raises(InvalidUser, match="subscription id"):
        await users.add_device("ada", "a b")


async def test_forgetting_leaves_nothing_of_a_user_and_all_of_the_others(users: Users, inbox: Inbox) -> None:
    for user in ("ada", "bob"):
        await users.save(user, name=user)
        await users.prefer(user, "push", Preference(enabled=False))
        await users.add_device(user, f"phone-{user}")
        await inbox.add(told(user, user))
    await users.forget("ada")
    for user, there in (("ada", False), ("bob", True)):
        assert (await users.find(user) != User(user)) is there
        assert bool(await users.preferences(user)) is there
        assert bool(await users.devices(user)) is there
        assert bool(await inbox.notifications(user)) is there


# ---------------------------------------------------------------- what they were told


def told(number: int | str, user: str = "ada", *, age: timedelta = timedelta(0)) -> Notification:
    at = datetime.now(UTC) - age
    return Notification(f"{user}-{number}", user, "info", f"title {number}", "body", {"n": number}, at)


async def test_a_notification_is_stored_once(inbox: Inbox) -> None:
    first = told(1)
    assert await inbox.add(first) is None
    assert await inbox.add(told(1)) == first
    await inbox.handed_over(first.id, {"push": {"skipped": "x"}})
    (stored,) = await inbox.notifications("ada")
    assert (stored.channels, stored.metadata, stored.read_at) == ({"push": {"skipped": "x"}}, {"n": 1}, None)


async def test_reading(inbox: Inbox) -> None:
    for number in range(4):
        await inbox.add(told(number))
    await inbox.add(told(9, "bob"))
    assert await inbox.mark_read("ada", ["ada-0", "ada-1", "bob-9"]) == 2
    assert await inbox.mark_read("ada", ["ada-0"]) == 0
    assert await inbox.unread_count("ada") == 2
    assert [each.id for each in await inbox.notifications("ada", unread=True)] == ["ada-3", "ada-2"]
    assert await inbox.mark_unread("ada", ["ada-0", "ada-3", "bob-9"]) == 1
    assert await inbox.mark_all_read("ada") == 3
    assert (await inbox.unread_count("ada"), await inbox.unread_count("bob")) == (0, 1)
    assert await inbox.mark_read("ada", []) == 0


async def test_pages_show_each_once_also_those_of_one_moment(inbox: Inbox) -> None:
    at = datetime.now(UTC)
    for number in range(7):
        await inbox.add(Notification(f"{number}", "ada", "info", "t", "b", {}, at - timedelta(seconds=number // 3)))
    seen: list[str] = []
    while page := await inbox.notifications("ada", limit=2, before=seen[-1] if seen else None):
        seen += [each.id for each in page]
    assert seen == ["2", "1", "0", "5", "4", "3", "6"]
    assert await inbox.notifications("ada", before="long gone") == []
    assert await inbox.notifications("bob", before="0") == []


async def test_the_nightly_cleanup_may_remove_old_ones(inbox: Inbox) -> None:
    (place,) = re.findall(r"ARQD_MAINTENANCE__TABLES__NOTIFICATIONS=([\w.]+)", page("families/notifications"))
    for days in range(6):
        await inbox.add(told(days, age=timedelta(days=days)))
    assert await remove_rows(inbox.database, place, 86_400 * 1.5) == 4
    assert [each.id for each in await inbox.notifications("ada")] == ["ada-0", "ada-1"]


# ---------------------------------------------------------------- quiet hours


def at(text: str, zone: str = "UTC") -> datetime:
    """Give a moment by its clock; ``*`` behind it: the second time the clock shows it."""
    moment = datetime.fromisoformat(text.rstrip("*")).replace(tzinfo=ZoneInfo(zone), fold=text.endswith("*"))
    return moment.astimezone(UTC)


@pytest.mark.parametrize(
    ("hours", "zone", "now", "end"),
    [
        ("22:00-07:00", "UTC", "2030-01-10 21:59", None),
        ("22:00-07:00", "UTC", "2030-01-10 22:00", "2030-01-11 07:00"),
        ("22:00-07:00", "UTC", "2030-01-11 06:59", "2030-01-11 07:00"),
        ("22:00-07:00", "UTC", "2030-01-11 07:00", None),
        ("13:00-15:30", "UTC", "2030-01-10 13:00", "2030-01-10 15:30"),
        ("13:00-15:30", "UTC", "2030-01-10 12:00", None),
        ("00:00-06:00", "UTC", "2030-01-10 00:00", "2030-01-10 06:00"),
        ("18:00-00:00", "UTC", "2030-01-10 23:59", "2030-01-11 00:00"),
        ("22:00-07:00", "Asia/Tokyo", "2030-01-10 23:00", "2030-01-11 07:00"),
        # Clocks are put forward from 2 to 3, and back from 3 to 2: the night is an hour shorter, or longer.
        ("22:00-07:00", "Europe/Paris", "2030-03-30 23:00", "2030-03-31 07:00"),
        ("22:00-07:00", "Europe/Paris", "2030-10-26 23:00", "2030-10-27 07:00"),
        # The clock never shows half past two; it shows it twice.
        ("22:00-02:30", "Europe/Paris", "2030-03-31 01:59", "2030-03-31 03:30"),
        ("22:00-02:30", "Europe/Paris", "2030-10-27 02:10", "2030-10-27 02:30*"),
        ("22:00-02:30", "Europe/Paris", "2030-10-27 02:10*", "2030-10-27 02:30*"),
    ],
)
def test_quiet_hours_end_by_the_users_clock(hours: str, zone: str, now: str, end: str | None) -> None:
    found = QuietHours.parse(hours).until(at(now, zone), ZoneInfo(zone))
    assert found == (at(end, zone) if end else None)
    assert found is None or found > at(now, zone)


@pytest.mark.parametrize("text", ["22-7", "24:00-07:00", "22:00", "", "22:60-07:00", "08:00-08:00"])
def test_hours_that_are_none(text: str) -> None:
    with pytest.raises(InvalidUser, match="quiet hours"):
        QuietHours.parse(text)
