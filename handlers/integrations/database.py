"""The database of the families: SQLite under ``./var`` unless ``ARQD_DATABASE_URL`` names a PostgreSQL.

How a family uses it:

1. Its tables are SQLAlchemy ``Table``\\ s on `metadata`, in a module ``handlers/<family>/tables.py``, named
   ``arqd_<family>_…``, with `Utc` for times and `Exact` for money.
2. A file ``migrations/versions/<family>_0001.py`` makes them (see `handlers.integrations.migrations`). A test compares
   both on both databases.
3. Its ``WorkerSettings`` opens it, and its functions use it in short transactions, never across a call to a service::

       async def open_orders(ctx):
           ctx["database"] = await Database.open(ctx["settings"])       # on_startup
       async def close_orders(ctx):
           await ctx["database"].close()                                # on_shutdown

       async with ctx["database"].begin() as connection:
           added = await connection.execute(insert(connection, orders).values(…).on_conflict_do_nothing())

In a transaction of `Database.begin` a SQLite has the one writer's lock from the start, so what was read stays true. For
PostgreSQL lock what is read and then changed: ``select(…).with_for_update()``, which SQLite leaves out.

This module takes most of a second to import: only a family that uses it may, and never its ``payloads``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Self

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Numeric, Table, Text, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator

from daemon.errors import ArqdError, ConfigurationError
from handlers.integrations.database_settings import DatabaseSettings
from handlers.integrations.migrations import applied, newest, upgrade

# At level debug it logs statements with what they carry.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)

#: What PostgreSQL is called in URLs, and what each kind of database is reached with.
_KINDS = {"postgres": "postgresql", "postgresql": "postgresql", "sqlite": "sqlite"}
_DRIVERS = {"postgresql": "asyncpg", "sqlite": "aiosqlite"}
_EXTRAS = {"postgresql": "arqd[postgres]", "sqlite": "arqd[database]"}

_UNKNOWN = re.compile(r"^connect\(\) got an unexpected keyword argument '(\w+)'")

#: Python's usual context rounds to 28 digits; a column has 38.
_WIDE = Context(prec=60)

#: The tables of every family. Constraints get names, without which none could be changed later.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class DatabaseUnavailable(ArqdError):
    """The database cannot be reached: check ARQD_DATABASE_URL and that the server is running."""


class Utc(TypeDecorator[datetime]):
    """A time with its zone, always UTC. SQLite has no zones: there it is stored without, in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give what is stored; a time without zone is refused, it could mean anything."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: use an aware datetime, e.g. datetime.now(UTC)")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Exact(TypeDecorator[Decimal]):
    """A decimal that stays what it is: NUMERIC in PostgreSQL, text in SQLite, whose numbers are floats.

    Add and compare in Python, in the transaction that locked the row: SQLite would do it with floats. Up to 20 digits
    before the point and 18 behind it.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Give the type in a database."""
        return dialect.type_descriptor(Numeric(38, 18) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Decimal | int | None, dialect: Dialect) -> Any:
        """Give what is stored; a float is refused."""
        if value is None:
            return None
        if type(value) not in (Decimal, int):
            raise TypeError(f"{value!r} is no Decimal: money never passes through floats")
        exact = Decimal(value)
        if not exact.is_finite() or exact.adjusted() >= 20 or _shortest(exact).as_tuple().exponent < -18:  # type: ignore[operator]
            raise ValueError("a decimal here has up to 20 digits before the point and 18 behind it")
        return exact if dialect.name == "postgresql" else f"{exact:f}"

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Give the decimal without the zeros that only fill its scale."""
        if value is None:
            return None
        exact = _shortest(Decimal(value))
        return exact if exact.as_tuple().exponent <= 0 else exact.quantize(Decimal(1), context=_WIDE)  # type: ignore[operator]


def _shortest(value: Decimal) -> Decimal:
    """Give it without zeros at its end."""
    return value.normalize(_WIDE)


def id_column() -> Column[int]:
    """Give a primary key ``id`` that the database counts up; a SQLite does so for its own kind of integer only."""
    return Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)


def insert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Give an INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update`` in this database."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


class Database:
    """An engine, opened with the operator's limits.

    Args:
        url: ``postgresql://user:password@host/name`` or ``sqlite:///path``.
        settings: limits.

    Raises:
        ConfigurationError: for a URL that is none, or of another kind of database, or where its driver is missing, or
            the folder cannot be made.
    """

    def __init__(self, url: str, settings: DatabaseSettings | None = None) -> None:
        self.settings = settings or DatabaseSettings()
        self.url = database_url(url)
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            _make_folder(Path(self.url.database).parent)
        try:
            self.engine = self._engine()
        except ModuleNotFoundError as error:
            extra = _EXTRAS[self.url.get_backend_name()]
            raise ConfigurationError(f"ARQD_DATABASE_URL: {error.name} is missing: install {extra}") from None

    @classmethod
    def of(cls, settings: Any) -> Self:
        """Give the database the daemon's settings name; nothing is asked of it."""
        url = settings.database_url
        path = settings.var_dir / "arqd.db"
        return cls(url.get_secret_value() if url else f"sqlite:///{path}", settings.database)

    @classmethod
    async def open(cls, settings: Any) -> Self:
        """Open the database the daemon's settings name.

        Raises:
            ConfigurationError: when its tables are older than this release: ``arqd db upgrade``.
            DatabaseUnavailable: when it cannot be reached.
        """
        database = cls.of(settings)
        try:
            await database.check()
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def where(self) -> str:
        """The database's address without its password."""
        return self.url.set(drivername=self.url.get_backend_name()).render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite."""
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction that ends with the block: committed, or rolled back by an exception."""
        async with self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that only reads; in SQLite it waits for no writer, and sees one moment throughout."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(arqd_reads=True)

    @asynccontextmanager
    async def snapshot(self, limit: float) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that only reads and sees one moment throughout, for what takes long.

        Args:
            limit: on each of its statements, seconds, in place of ``statement_timeout``.
        """
        async with self.read() as connection:
            if not self.is_sqlite:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                await connection.execute(text(f"SET LOCAL statement_timeout = {round(limit * 1000)}"))
            yield connection

    async def close(self) -> None:
        """Close its connections."""
        await self.engine.dispose()

    async def check(self) -> None:
        """See that it answers and that its tables are not older than this release.

        Raises:
            ConfigurationError, DatabaseUnavailable: see `open`.
        """
        found = await self.schema()
        behind = [name for name, number in newest().items() if found.get(name, 0) < number]
        if behind:
            raise ConfigurationError(
                f"the database {self.where} lacks tables of this release ({', '.join(sorted(behind))}): "
                "run arqd db upgrade"
            )

    async def schema(self) -> Mapping[str, int]:
        """Give the number of the last migration of each family that was applied.

        Raises:
            DatabaseUnavailable: when it cannot be reached.
        """
        async with self._reaching(), self.read() as connection:
            return await connection.run_sync(applied)

    async def upgrade(self) -> Mapping[str, int]:
        """Bring its tables up to this release; several processes may at once, one does it and the others wait.

        Returns:
            What `schema` gives now.

        Raises:
            DatabaseUnavailable: when it cannot be reached.
        """
        # Without the limit on statements: a migration takes as long as it takes, and so does the wait for another's.
        patient = Database(
            self.url.render_as_string(hide_password=False), self.settings.model_copy(update={"statement_timeout": 3600})
        )
        try:
            async with self._reaching(), patient.begin() as connection:
                await connection.run_sync(upgrade)
        finally:
            await patient.close()
        return await self.schema()

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        try:
            yield
        except TypeError as error:
            # What a host's URL asks of libpq, channel_binding perhaps; the driver takes each for an argument.
            if not (name := _UNKNOWN.search(str(error))):
                raise
            raise ConfigurationError(f"ARQD_DATABASE_URL: leave {name[1]} out, the driver has no such option") from None
        except (DBAPIError, OSError, TimeoutError) as error:
            if isinstance(error, DBAPIError) and error.statement is not None:
                raise
            told = " ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__
            raise DatabaseUnavailable(f"the database {self.where} cannot be reached: {told[:300]}") from None

    def _engine(self) -> AsyncEngine:
        settings = self.settings
        ms = round(settings.statement_timeout * 1000)
        arguments: dict[str, Any] = (
            {"timeout": settings.statement_timeout}
            if self.is_sqlite
            else {
                "timeout": settings.connect_timeout,
                "server_settings": {"application_name": "arqd", "statement_timeout": str(ms), "timezone": "UTC"},
            }
        )
        engine = create_async_engine(
            self.url,
            pool_size=settings.pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout,
            pool_recycle=settings.recycle,
            # A connection that a restarted server dropped is noticed before a transaction begins on it.
            pool_pre_ping=not self.is_sqlite,
            connect_args=arguments,
            # What stands in a row must not stand in an error's message, and so in a dead letter or a log.
            hide_parameters=True,
        )
        if self.is_sqlite:
            event.listen(engine.sync_engine, "connect", _set_up_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the database's folder {folder} cannot be used: {error.strerror or error}; "
            "set ARQD_VAR_DIR or ARQD_DATABASE_URL"
        ) from None


def database_url(text: str) -> URL:
    """Read a URL and give it with the driver that is used.

    Raises:
        ConfigurationError: never quoting it, for it holds a password.
    """
    try:
        url = make_url(text)
        kind = _KINDS.get(url.get_backend_name())
    except (ArgumentError, NoSuchModuleError, ValueError):
        kind = None
    if kind is None or (kind == "sqlite" and url.database in (None, "", ":memory:")):
        raise ConfigurationError(
            "ARQD_DATABASE_URL is not understood: write postgresql://user:password@host:5432/name or sqlite:///var/arqd.db"
        )
    query = dict(url.query)
    # What libpq and most hosts call it.
    if kind == "postgresql" and "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername=f"{kind}+{_DRIVERS[kind]}", query=query)


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # Transactions are begun below, not by the driver, which would only begin one before the first change.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin_sqlite(connection: Any) -> None:
    # A transaction that reads first and writes then would fail at once if another had written in between.
    reads = connection.get_execution_options().get("arqd_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
