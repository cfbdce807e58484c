"""The database on SQLite and PostgreSQL: its types, its transactions, its schema."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, select, text, update
from sqlalchemy.exc import StatementError

from daemon.errors import ConfigurationError
from daemon.settings import load_settings
from handlers.integrations import migrations
from handlers.integrations.checks import database as check_database
from handlers.integrations.database import Database, DatabaseUnavailable, Exact, Utc, insert
from handlers.integrations.database_settings import DatabaseSettings
from tests.handlers.integrations.schema import declared
from tests.postgres import PostgresServer
from tests.servers import free_port

things = Table(
    "things", MetaData(), Column("id", Integer, primary_key=True), Column("at", Utc), Column("amount", Exact)
)


@pytest.fixture
async def made(database: Database) -> Database:
    async with database.begin() as connection:
        await connection.run_sync(things.metadata.create_all)
    return database


# ---------------------------------------------------------------- types


async def test_times_come_back_in_utc(made: Database) -> None:
    moment = datetime(2030, 3, 31, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    async with made.begin() as connection:
        await connection.execute(things.insert(), [{"id": 1, "at": moment}, {"id": 2, "at": None}])
    async with made.read() as connection:
        found = (await connection.execute(select(things.c.at).order_by(things.c.id))).scalars().all()
        same = (await connection.execute(select(things.c.id).where(things.c.at == moment))).scalars().all()
    assert found == [moment, None]
    assert found[0].tzinfo is UTC
    assert same == [1]


async def test_a_time_without_zone_is_refused(made: Database) -> None:
    async with made.read() as connection:
        with pytest.raises(StatementError, match="no time zone"):
            await connection.execute(select(things).where(things.c.at == datetime(2030, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize(
    "amount", ["0", "0.1", "-12.30", "100", "19.999999999999999999", "99999999999999999999.000000000000000001"]
)
async def test_decimals_stay_what_they_are(made: Database, amount: str) -> None:
    async with made.begin() as connection:
        await connection.execute(things.insert().values(id=1, amount=Decimal(amount)))
        found = (await connection.execute(select(things.c.amount))).scalar_one()
    assert found == Decimal(amount)
    assert "E" not in str(found)


@pytest.mark.parametrize("amount", [0.1, True, Decimal("NaN"), Decimal("1e-19"), Decimal("1e20")])
async def test_no_float_and_nothing_that_would_be_rounded(made: Database, amount: Any) -> None:
    async with made.begin() as connection:
        with pytest.raises(StatementError, match=r"floats|digits"):
            await connection.execute(things.insert().values(id=1, amount=amount))


# ---------------------------------------------------------------- transactions


async def test_what_is_read_in_a_transaction_stays_true(made: Database) -> None:
    """Twenty that read, think and write lose nothing; on SQLite none of them is told that it is locked."""
    async with made.begin() as connection:
        await connection.execute(things.insert().values(id=1, amount=Decimal(0)))

    async def add_one() -> None:
        async with made.begin() as connection:
            row = select(things.c.amount).where(things.c.id == 1).with_for_update()
            have = (await connection.execute(row)).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(update(things).where(things.c.id == 1).values(amount=have + 1))

    await asyncio.gather(*(add_one() for _ in range(20)))
    async with made.read() as connection:
        assert (await connection.execute(select(things.c.amount))).scalar_one() == 20


async def test_an_exception_rolls_back_and_readers_wait_for_no_writer(made: Database) -> None:
    async def write_and_fail() -> None:
        async with made.begin() as connection:
            await connection.execute(things.insert().values(id=1))
            async with asyncio.timeout(60), made.read() as other:
                assert (await other.execute(select(things.c.id))).scalars().all() == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    async with made.read() as connection:
        assert (await connection.execute(select(things.c.id))).scalars().all() == []


async def test_insert_once(made: Database) -> None:
    async with made.begin() as connection:
        for _ in range(2):
            once = insert(connection, things).values(id=1).on_conflict_do_nothing()
            added = (await connection.execute(once.returning(things.c.id))).scalars().all()
    assert added == []


async def test_an_error_does_not_tell_what_is_in_a_row(made: Database) -> None:
    secret = secrets.token_hex(8)
    async with made.begin() as connection:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await connection.execute(text("INSERT INTO missing VALUES (:a)"), {"a": secret})
    assert secret not in str(caught.value)


# ---------------------------------------------------------------- schema


async def test_steps_make_what_the_tables_declare(database: Database) -> None:
    def compare(connection: Any) -> Any:
        options = {"compare_type": True, "version_table": migrations.TABLE}
        context = MigrationContext.configure(connection, opts=options)
        return compare_metadata(context, declared())  # type: ignore[arg-type]

    async with database.read() as connection:
        assert await connection.run_sync(compare) == []


async def test_several_processes_upgrade_at_once(postgres: PostgresServer, tmp_path: Path) -> None:
    for url in (postgres.url(postgres.create()), f"sqlite:///{tmp_path / 'new.db'}"):
        found = [Database(url) for _ in range(6)]
        with pytest.raises(ConfigurationError, match="run arqd db upgrade"):
            await found[0].check()
        assert await found[0].schema() == {}
        assert await asyncio.gather(*(each.upgrade() for each in found)) == [migrations.newest()] * 6
        await found[0].check()
        for each in found:
            await each.close()


async def test_an_upgrade_that_fails_leaves_nothing(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    monkeypatch.setattr(migrations, "VERSIONS", versions)
    head = "from alembic import op\nrevision, down_revision, branch_labels = "
    (versions / "shop_0001.py").write_text(
        f'"""1"""\n{head}"shop_0001", None, "shop"\ndef upgrade(): op.execute("CREATE TABLE first (id INTEGER)")\n'
    )
    (versions / "shop_0002.py").write_text(
        f'"""2"""\n{head}"shop_0002", "shop_0001", None\ndef upgrade(): op.execute("CREATE MISTAKE")\n'
    )
    for url in (postgres.url(postgres.create()), f"sqlite:///{tmp_path / 'new.db'}"):
        database = Database(url)
        with pytest.raises(Exception, match="MISTAKE"):
            await database.upgrade()
        assert await database.schema() == {}
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE first (id INTEGER)"))
        await database.close()


async def test_an_older_release_on_a_newer_schema(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a newer release, and of a family this one does not have, are left alone."""
    async with database.begin() as connection:
        await connection.execute(text(f"UPDATE {migrations.TABLE} SET version_num = 'outbox_0009' "
                                      "WHERE version_num = 'outbox_0001'"))  # fmt: skip
        await connection.execute(text(f"INSERT INTO {migrations.TABLE} VALUES ('unheard_of_0001')"))
    await database.check()
    found = await database.upgrade()
    assert (found["outbox"], found["unheard_of"]) == (9, 1)


# ---------------------------------------------------------------- URLs and settings


@pytest.mark.parametrize("url", ["mysql://a:secret@b/c", "sqlite://", "sqlite:///:memory:", "secret", "", "oracle:x"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ARQD_DATABASE_URL is not understood") as caught:
        Database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_a_server_that_is_not_there(scheme: str) -> None:
    password = secrets.token_hex(8)
    database = Database(f"{scheme}://arqd:{password}@127.0.0.1:{free_port()}/arqd?sslmode=disable")
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as caught:
        await database.check()
    assert password not in str(caught.value)
    await database.close()


async def test_an_option_the_driver_does_not_know() -> None:
    """Hosts hand out URLs for libpq."""
    password = secrets.token_hex(8)
    database = Database(f"postgresql://arqd:{password}@127.0.0.1/arqd?sslmode=require&channel_binding=require")
    with pytest.raises(ConfigurationError, match="leave channel_binding out") as caught:
        await database.check()
    assert password not in str(caught.value)
    await database.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigurationError, match=r"folder .*/file/var cannot be used: Not a directory; set ARQD_VAR_DIR"
    ):
        Database(f"sqlite:///{tmp_path}/file/var/arqd.db")


async def test_a_statement_has_a_limit(postgres: PostgresServer) -> None:
    database = Database(postgres.url(), DatabaseSettings(statement_timeout=0.1))
    with pytest.raises(Exception, match="statement timeout"):
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))
    await database.close()


async def test_what_arqd_check_says(database: Database, database_url: str, tmp_path: Path) -> None:
    var = {"ARQD_VAR_DIR": str(tmp_path / "none")}
    assert await check_database(load_settings(var)) is None
    settings = load_settings(var | {"ARQD_DATABASE_URL": database_url})
    assert await check_database(settings) == database.where
    assert "***" in database.where or database.is_sqlite


def test_every_table_is_named_as_one_of_arqd() -> None:
    """The database may be shared with a service's own tables."""
    names = [table.name for each in declared() for table in each.tables.values()]
    assert names
    assert [name for name in names if not name.startswith("arqd_")] == []
