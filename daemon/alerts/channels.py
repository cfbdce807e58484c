"""Tells people: the log always, and whatever channels are set up, by Apprise or as events in Datadog.

Their libraries (``arqd[alerts]``) are imported when the first message is sent: the leader alone needs them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from daemon.alerts.rules import Severity
from daemon.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from daemon.alerts.book import Alert

logger = logging.getLogger("arqd.alerts")

#: A channel that has not taken a message after so long has failed, seconds.
TIMEOUT = 20.0

Kind = Literal["firing", "again", "over"]


class NotTold(Exception):
    """A channel could not tell; the text says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Message:
    """What people are told.

    Attributes:
        kind: whether it has just begun, still goes on or is over.
        title: the same for all messages of an alert, so that services can put them together.
        body: what is wrong, since when, where to look.
    """

    kind: Kind
    severity: Severity
    alert: str
    subject: str
    title: str
    body: str

    @staticmethod
    def of(alert: Alert, kind: Kind, link: str) -> Message:
        """Say it in words."""
        since = f"since {datetime.fromtimestamp(alert.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
        word = {"firing": str(alert.severity), "again": f"still {alert.severity}", "over": "over"}[kind]
        body = f"{word}: {alert.text} ({since})"
        return Message(
            kind, alert.severity, alert.alert, alert.subject, f"arqd {alert.alert}: {alert.subject}",
            f"{body}\n{link}" if link else body,
        )  # fmt: skip


class Channel(Protocol):
    """Somewhere to tell."""

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            NotTold: when it could not.
        """
        ...


class LogChannel:
    """Writes a line of ``arqd.alerts`` with the fields ``alert``, ``subject``, ``severity`` and ``kind``."""

    async def send(self, message: Message) -> None:
        """Write it: over is INFO, a warning WARNING, what is critical ERROR."""
        level = logging.ERROR if message.severity is Severity.CRITICAL else logging.WARNING
        fields = {
            "alert": message.alert,
            "subject": message.subject,
            "severity": str(message.severity),
            "kind": message.kind,
        }
        text = message.body.partition("\n")[0]
        logger.log(logging.INFO if message.kind == "over" else level, "%s: %s", message.title, text, extra=fields)


class AppriseChannel:
    """Any service that Apprise knows, by its URL: Slack, PagerDuty, Twilio, mail, a webhook (``jsons://``) …

    Raises:
        ConfigurationError: when Apprise is not installed or does not know such a URL.
    """

    def __init__(self, name: str, url: str) -> None:
        try:
            from apprise import Apprise
        except ImportError:
            raise ConfigurationError(f"alerts' channel {name} needs Apprise: install arqd[alerts]") from None
        # At DEBUG they tell whole URLs, and secrets stand in these.
        for library in ("apprise", "urllib3", "requests"):
            logging.getLogger(library).setLevel(logging.WARNING)
        logging.getLogger("apprise").setLevel(logging.CRITICAL)
        self._apprise = Apprise()
        if not self._apprise.add(url):
            raise ConfigurationError(f"ARQD_ALERTS__CHANNELS__{name.upper()}: Apprise does not understand this URL")

    async def send(self, message: Message) -> None:
        """Send it; Apprise's services block, so it does in threads of its own."""
        from apprise import NotifyType

        bad = NotifyType.FAILURE if message.severity is Severity.CRITICAL else NotifyType.WARNING
        kind = NotifyType.SUCCESS if message.kind == "over" else bad
        try:
            async with asyncio.timeout(TIMEOUT):
                told = await self._apprise.async_notify(body=message.body, title=message.title, notify_type=kind)
        except TimeoutError:
            raise NotTold(f"no answer within {TIMEOUT:g} s") from None
        if not told:
            raise NotTold("the service did not take it")


class DatadogChannel:
    """Events in Datadog: ``datadog://KEY@api.datadoghq.eu``, ``datadog://KEY@127.0.0.1:8080?tls=no`` for a relay.

    Raises:
        ConfigurationError: when httpx is not installed or the URL names no key or host.
    """

    def __init__(self, name: str, url: str) -> None:
        try:
            import httpx
        except ImportError:
            raise ConfigurationError(f"alerts' channel {name} needs httpx: install arqd[alerts]") from None
        parts = urlsplit(url)
        if not parts.username or not parts.hostname:
            raise ConfigurationError(
                f"ARQD_ALERTS__CHANNELS__{name.upper()}: write datadog://KEY@api.datadoghq.com, or your site's host"
            )
        secure = parse_qs(parts.query).get("tls") != ["no"]
        self._url = f"http{'s' if secure else ''}://{parts.netloc.rpartition('@')[2]}/api/v1/events"
        self._key = unquote(parts.username)
        self._failures = (httpx.HTTPError, httpx.InvalidURL)

    async def send(self, message: Message) -> None:
        """Post an event; those of an alert share an aggregation key."""
        import httpx

        bad = "error" if message.severity is Severity.CRITICAL else "warning"
        event = {
            "title": message.title,
            "text": message.body,
            "alert_type": "success" if message.kind == "over" else bad,
            "aggregation_key": f"{message.alert}:{message.subject}"[:100],
            "source_type_name": "arqd",
            "tags": [f"alert:{message.alert}", f"subject:{message.subject}", f"severity:{message.severity}"],
        }
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client:
                answer = await client.post(self._url, json=event, headers={"DD-API-KEY": self._key})
        except self._failures as error:
            raise NotTold(type(error).__name__) from None
        if not answer.is_success:
            raise NotTold(f"status {answer.status_code}")


def open_channels(urls: Mapping[str, SecretStr]) -> dict[str, Channel]:
    """Give the channels of the settings.

    Raises:
        ConfigurationError: naming the one that cannot be used.
    """
    return {name: _open(name, url.get_secret_value()) for name, url in urls.items()}


def _open(name: str, url: str) -> Any:
    return DatadogChannel(name, url) if url.lower().startswith("datadog://") else AppriseChannel(name, url)
