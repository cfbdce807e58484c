"""What requests need, made once for the process: connections, the engine's own interfaces, tokens, sessions, audit log.

    async with Services.open(url, settings, families) as services:
        app = create_app(services)

Pages and API routes get it with ``services_of(request)``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from daemon.alerts.book import Book
from daemon.catalog import Catalog
from daemon.console.audit import Audit
from daemon.console.jwts import Verifier
from daemon.console.live import Live
from daemon.console.redrives import Redrives
from daemon.console.sessions import Sessions
from daemon.console.settings import ConsoleSettings
from daemon.console.tokens import Tokens
from daemon.control import Control
from daemon.dotted import database_of
from daemon.encryption import KeyRing
from daemon.errors import JobNotFound
from daemon.family import Family
from daemon.inspector import Inspector
from daemon.producer import Producer
from daemon.schedules import Schedules
from daemon.servers import RedisUrl

if TYPE_CHECKING:
    from daemon.archive.archiver import Archiver
    from daemon.settings import Settings

#: Callers that are remembered at once.
_CALLERS = 10_000


@dataclass(slots=True)
class Gate:
    """Lets so many jobs a second through for each caller, a second's worth at once; one call may go into debt."""

    rate: int
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def wait(self, caller: str, jobs: int) -> float:
        """Give 0 and count the jobs, or else after how many seconds to try again."""
        if not self.rate:
            return 0.0
        now = time.monotonic()
        left, at = self._seen.pop(caller, (float(self.rate), now))
        left = min(float(self.rate), left + (now - at) * self.rate)
        passes = left > 0
        self._seen[caller] = (left - jobs if passes else left, now)
        if len(self._seen) > _CALLERS:
            del self._seen[next(iter(self._seen))]
        return 0.0 if passes else max(0.001, -left / self.rate)


@dataclass(slots=True)
class Services:
    """See the module. ``inspector`` shows asterisks for what is encrypted; for admins it reveals (``reveal=True``)."""

    settings: ConsoleSettings
    catalog: Catalog
    redis: Any
    producer: Producer
    inspector: Inspector
    control: Control
    schedules: Schedules
    tokens: Tokens
    sessions: Sessions
    jwts: Verifier
    audit: Audit
    live: Live
    redrives: Redrives
    alerts: Book
    submissions: Gate
    archiver: Archiver | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: RedisUrl,
        console: ConsoleSettings,
        families: Sequence[Family],
        *,
        templates: Any = None,
        keyring: KeyRing | None = None,
        archiver: Callable[[Any], Archiver] | None = None,
    ) -> AsyncIterator[Services]:
        """Make them for a Redis URL, and close them after the block.

        Args:
            archiver: gives the dead-letter archive's, with a client for Redis; None: there is none.

        Raises:
            ConfigurationError: for settings that cannot be used.
        """
        jwts, names, catalog = Verifier(console), [family.name for family in families], Catalog(families)
        # A function whose types cannot be resolved is told now, as its worker would.
        list(catalog.models())
        async with Producer.connect(url, templates=templates, keyring=keyring) as producer:
            redis, tokens = producer.redis, Tokens(producer.redis)
            inspector = Inspector(redis, names, keyring=keyring)
            audit = Audit(redis, console.audit_entries)
            services = cls(
                settings=console,
                catalog=catalog,
                redis=redis,
                producer=producer,
                inspector=inspector,
                control=Control(redis, names),
                schedules=Schedules(redis),
                tokens=tokens,
                sessions=Sessions(redis, tokens, console.session),
                jwts=jwts,
                audit=audit,
                live=Live(producer, inspector),
                redrives=Redrives(audit),
                alerts=Book(redis),
                submissions=Gate(console.submit_rate),
                archiver=None if archiver is None else archiver(redis),
            )
            try:
                yield services
            finally:
                services.live.close()
                await services.redrives.close()

    @classmethod
    def of(cls, url: RedisUrl, settings: Settings, families: Sequence[Family]) -> Any:
        """`open` with what the settings say."""
        return cls._of(url, settings, families)

    @classmethod
    @asynccontextmanager
    async def _of(cls, url: RedisUrl, settings: Settings, families: Sequence[Family]) -> AsyncIterator[Services]:
        options: dict[str, Any] = {"templates": settings.templates, "keyring": settings.keyring()}
        if not settings.has_database:
            async with cls.open(url, settings.console, families, **options) as services:
                yield services
            return
        # Not before it is needed: SQLAlchemy is loaded with it.
        from daemon.archive.archiver import make_archiver
        from daemon.archive.database import Archive

        database = database_of(settings)
        options["archiver"] = lambda redis: make_archiver(settings, redis, Archive(database))
        try:
            async with cls.open(url, settings.console, families, **options) as services:
                yield services
        finally:
            await database.close()

    @property
    def families(self) -> list[str]:
        """Names of the families, sorted."""
        return self.control.families

    def known(self, family: str) -> str:
        """Give a family's name.

        Raises:
            JobNotFound: when there is no such family.
        """
        if family not in self.inspector.families:
            raise JobNotFound(f"there is no family {family[:70]!r}: known are {', '.join(self.families)}")
        return family


def services_of(request: HTTPConnection) -> Services:
    """Give the services of the application that answers a request."""
    services: Services = request.app.state.services
    return services
