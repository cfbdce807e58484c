"""Each channel against a receiver on this machine, by the real library; only the services' addresses are led here."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from apprise.plugins.pagerduty import NotifyPagerDuty
from pydantic import SecretStr

from daemon.alerts.channels import Channel, Kind, Message, NotTold, open_channels
from daemon.alerts.rules import Severity
from daemon.errors import ConfigurationError
from tests.handlers.email.support import MailServer
from tests.handlers.receiver import Answer, Receiver, Request


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """A receiver to which every request of the library `requests`, and so of Apprise, is led."""
    send = requests.adapters.HTTPAdapter.send

    async with Receiver() as found:

        def led(self: Any, request: Any, **options: Any) -> Any:
            parts = urlsplit(request.url)
            request.headers["x-host"] = parts.hostname
            request.url = parts._replace(scheme="http", netloc=f"127.0.0.1:{found.port}").geturl()
            return send(self, request, **options)

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", led)
        yield found


def message(kind: Kind = "firing", severity: Severity = Severity.CRITICAL) -> Message:
    title = "arqd no_worker: email"
    return Message(kind, severity, "no_worker", "email", title, "critical: 3 jobs wait and no worker is there")


def opened(url: str) -> Channel:
    (channel,) = open_channels({"ops": SecretStr(url)}).values()
    return channel


async def asked(receiver: Receiver, url: str, sent: Message | None = None) -> Request:
    await opened(url).send(sent or message())
    (request,) = receiver.taken
    return request


async def test_slack(receiver: Receiver) -> None:
    token = "/".join(("T" + secrets.token_hex(4).upper(), "B" + secrets.token_hex(4).upper(), secrets.token_hex(12)))
    receiver.usual = Answer(200, b"ok")
    request = await asked(receiver, f"slack://{token}/#ops")
    assert (request.headers["x-host"], request.path) == ("hooks.slack.com", f"/services/{token}")
    assert "3 jobs wait and no worker is there" in request.body.decode()


async def test_pagerduty_raises_an_incident_and_resolves_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Apprise leaves some seconds between two messages.
    monkeypatch.setattr(NotifyPagerDuty, "request_rate_per_sec", 0)
    integration, key = secrets.token_hex(16), secrets.token_hex(10)
    receiver.usual = Answer(202, b'{"status": "success"}')
    channel = opened(f"pagerduty://{integration}@{key}?action=map")
    await channel.send(message())
    await channel.send(message("over"))
    raised, resolved = (request.json() for request in receiver.taken)
    assert receiver.taken[0].headers["x-host"] == "events.pagerduty.com"
    assert (raised["event_action"], raised["payload"]["severity"]) == ("trigger", "critical")
    assert raised["routing_key"] == integration
    # However much its text differs: the same incident.
    assert (resolved["event_action"], resolved["dedup_key"]) == ("resolve", raised["dedup_key"])


async def test_twilio(receiver: Receiver) -> None:
    account, token = "AC" + secrets.token_hex(16), secrets.token_hex(16)
    receiver.usual = Answer(201, b'{"sid": "SM1"}')
    request = await asked(receiver, f"twilio://{account}:{token}@15550100000/15550100001")
    assert (request.headers["x-host"], request.path) == (
        "api.twilio.com",
        f"/2010-04-01/Accounts/{account}/Messages.json",
    )
    fields = parse_qs(request.body.decode())
    assert (fields["To"], fields["From"]) == (["+15550100001"], ["+15550100000"])
    assert "no worker is there" in fields["Body"][0]
    assert base64.b64decode(request.headers["authorization"].split()[1]).decode() == f"{account}:{token}"


async def test_a_webhook(receiver: Receiver) -> None:
    request = await asked(receiver, "json://hooks.example/arqd?+X-Team=ops", message(severity=Severity.WARNING))
    assert (request.headers["x-host"], request.path) == ("hooks.example", "/arqd")
    assert request.headers["x-team"] == "ops"
    assert (request.json()["title"], request.json()["type"]) == ("arqd no_worker: email", "warning")


@pytest.mark.parametrize(
    ("kind", "severity", "told"),
    [
        ("firing", Severity.CRITICAL, "error"),
        ("again", Severity.WARNING, "warning"),
        ("over", Severity.CRITICAL, "success"),
    ],
)
async def test_datadog(kind: Kind, severity: Severity, told: str) -> None:
    key = secrets.token_hex(16)
    async with Receiver() as receiver:
        receiver.usual = Answer(202)
        request = await asked(receiver, f"datadog://{key}@127.0.0.1:{receiver.port}?tls=no", message(kind, severity))
    assert (request.path, request.headers["dd-api-key"]) == ("/api/v1/events", key)
    event = request.json()
    assert (event["alert_type"], event["aggregation_key"]) == (told, "no_worker:email")
    assert "alert:no_worker" in event["tags"]


async def test_mail() -> None:
    server = await MailServer().start()
    try:
        url = f"mailto://127.0.0.1:{server.port}?from=arqd@example.com&to=ops@example.com&mode=insecure"
        await opened(url).send(message())
    finally:
        await server.stop()
    (received,) = server.received
    mail = received.message
    assert received.recipients == ["ops@example.com"]
    assert mail["Subject"] == "arqd no_worker: email"
    body = mail.get_body(("plain", "html"))
    assert body is not None
    assert "3 jobs wait" in body.get_content()


async def test_a_service_that_refuses_says_so_and_tells_no_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    secret = secrets.token_hex(12)
    receiver.usual = Answer(500)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(NotTold, match="the service did not take it"):
            await opened(f"slack://T0000000A/B0000000A/{secret}/#ops").send(message())
        with pytest.raises(NotTold, match="status 500"):
            await opened(f"datadog://{secret}@127.0.0.1:{receiver.port}?tls=no").send(message())
        with pytest.raises(NotTold, match="ConnectError"):
            await opened(f"datadog://{secret}@127.0.0.1:1?tls=no").send(message())
    assert secret not in caplog.text


@pytest.mark.parametrize("url", ["nosuchservice://x", "datadog://api.datadoghq.com", "slack://"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ARQD_ALERTS__CHANNELS__OPS"):
        opened(url)
