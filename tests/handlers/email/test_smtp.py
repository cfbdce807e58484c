"""The pool against a real mail server: encryption, login, replies, reuse of connections."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from pydantic import ValidationError

from handlers.integrations.mail import MailRefused, MailUnavailable, Reply
from handlers.integrations.smtp_settings import SmtpSettings
from tests.handlers.email.conftest import PoolFactory, ServerFactory

MESSAGE = b"From: shop@example.org\r\nSubject: Hi\r\n\r\nHello\r\n"
SENDER = "shop@example.org"


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_sends_encrypted_and_logged_in(tls: str, mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(tls=tls, password=secrets.token_urlsafe())
    assert await pool(server).send(SENDER, ["ada@example.com"], MESSAGE) == {}
    assert server.secure_logins == 1
    assert server.received[0].sender == SENDER
    assert server.received[0].recipients == ["ada@example.com"]
    assert server.received[0].data == MESSAGE


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_certificate_is_checked(tls: str, mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(tls=tls)
    with pytest.raises(MailUnavailable, match="certificate"):
        await pool(server, ca_file=None).send(SENDER, ["ada@example.com"], MESSAGE)
    assert await pool(server, ca_file=None, verify=False).send(SENDER, ["ada@example.com"], MESSAGE) == {}
    assert len(server.received) == 1


async def test_name_in_certificate_is_checked(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(tls="tls")
    with pytest.raises(MailUnavailable, match="certificate"):
        await pool(server, host="127.0.0.1").check()
    await pool(server, host="localhost").check()


async def test_server_without_starttls_gets_nothing(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(tls="none")
    with pytest.raises(MailUnavailable, match=r"STARTTLS.*set tls to"):
        await pool(server, tls="starttls").send(SENDER, ["ada@example.com"], MESSAGE)
    assert server.received == []


async def test_refused_login_is_tried_again_and_tells_no_password(
    mail_server: ServerFactory, pool: PoolFactory
) -> None:
    server = await mail_server(tls="starttls", password=secrets.token_urlsafe())
    wrong = secrets.token_urlsafe()
    with pytest.raises(MailUnavailable, match="refuses the login of 'mailer'") as caught:
        await pool(server, password=wrong).send(SENDER, ["ada@example.com"], MESSAGE)
    assert wrong not in str(caught.value)
    assert wrong not in repr(SmtpSettings(host="h", username="u", password=wrong))


async def test_missing_login_is_a_matter_of_settings(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(tls="starttls", password=secrets.token_urlsafe())
    with pytest.raises(MailUnavailable, match="530"):
        await pool(server, username=None, password=None).send(SENDER, ["ada@example.com"], MESSAGE)


def test_no_password_over_an_open_line() -> None:
    with pytest.raises(ValidationError, match="not sent unencrypted"):
        SmtpSettings(host="mail.example.com", tls="none", username="u", password=secrets.token_urlsafe())
    assert SmtpSettings(host="127.0.0.1", tls="none", username="u", password=secrets.token_urlsafe()).is_loopback


def test_port_and_encryption_follow_each_other() -> None:
    assert SmtpSettings(host="h").effective_port == 587
    assert SmtpSettings(host="h", tls="tls").effective_port == 465
    assert SmtpSettings(host="h", port=465).tls == "tls"
    assert SmtpSettings(host="h", port=465, tls="starttls").tls == "starttls"


async def test_each_recipient_has_a_reply(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(
        replies={"no@example.com": "550 5.1.1 unknown", "later@example.com": "451 4.3.0 busy", "full@x.org": "552 full"}
    )
    everyone = ["ada@example.com", "no@example.com", "later@example.com", "full@x.org"]
    refused = await pool(server).send(SENDER, everyone, MESSAGE)
    assert refused == {
        "no@example.com": Reply(550, "5.1.1 unknown"),
        "later@example.com": Reply(451, "4.3.0 busy"),
        "full@x.org": Reply(452, "full"),
    }
    assert server.received[0].recipients == ["ada@example.com"]


async def test_nothing_is_sent_when_all_are_refused(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(replies={"no@example.com": "550 5.1.1 unknown"})
    refused = await pool(server).send(SENDER, ["no@example.com"], MESSAGE)
    assert refused["no@example.com"].is_permanent
    assert server.received == []


@pytest.mark.parametrize(("reply", "permanent"), [("554 5.6.0 spam", True), ("452 4.3.1 full", False)])
async def test_refused_message(reply: str, permanent: bool, mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(data_replies=[reply])
    mail = pool(server)
    with pytest.raises(MailRefused) as caught:
        await mail.send(SENDER, ["ada@example.com"], MESSAGE)
    assert caught.value.reply.is_permanent is permanent
    assert await mail.send(SENDER, ["ada@example.com"], MESSAGE) == {}
    assert server.sessions == 1, "a refused message does not cost the connection"


async def test_connection_is_used_again_after_a_check(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server(tls="starttls")
    mail = pool(server)
    for _ in range(3):
        await mail.send(SENDER, ["ada@example.com"], MESSAGE)
    assert len(server.received) == 3
    assert server.sessions == 1
    assert server.resets == 2


async def test_stale_connection_is_replaced(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server()
    mail = pool(server)
    await mail.send(SENDER, ["ada@example.com"], MESSAGE)
    server.drop()
    await mail.send(SENDER, ["ada@example.com"], MESSAGE)
    assert len(server.received) == 2
    assert server.sessions == 2


async def test_no_more_connections_than_allowed(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server()
    mail = pool(server, pool_size=2)
    await asyncio.gather(*(mail.send(SENDER, [f"a{n}@example.com"], MESSAGE) for n in range(8)))
    assert len(server.received) == 8
    assert server.sessions == 2


async def test_connection_lost_in_mid_message(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server()

    async def cut() -> None:
        server.drop()

    server.before_data = cut
    mail = pool(server)
    with pytest.raises(MailUnavailable, match="lost the mail server"):
        await mail.send(SENDER, ["ada@example.com"], MESSAGE)
    server.before_data = None
    server.received.clear()
    assert await mail.send(SENDER, ["ada@example.com"], MESSAGE) == {}
    assert len(server.received) == 1


async def test_cancelled_conversation_is_not_used_again(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go_on.wait()

    server.before_data = hold
    mail = pool(server, pool_size=1)
    sending = asyncio.create_task(mail.send(SENDER, ["ada@example.com"], MESSAGE))
    await arrived.wait()
    sending.cancel()
    await asyncio.wait([sending])
    assert sending.cancelled()
    go_on.set()
    server.before_data = None
    assert await mail.send(SENDER, ["bob@example.com"], MESSAGE) == {}
    assert server.sessions == 2
    assert ["bob@example.com"] in [received.recipients for received in server.received]


async def test_server_not_there(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server()
    await server.stop()
    with pytest.raises(MailUnavailable, match=f"cannot use the mail server localhost:{server.port}"):
        await pool(server).send(SENDER, ["ada@example.com"], MESSAGE)


async def test_international_address_needs_the_server_to_know_it(mail_server: ServerFactory, pool: PoolFactory) -> None:
    old = await mail_server(smtputf8=False)
    with pytest.raises(MailRefused, match="SMTPUTF8"):
        await pool(old).send(SENDER, ["zoë@example.com"], MESSAGE, utf8=True)
    new = await mail_server()
    assert await pool(new).send(SENDER, ["zoë@example.com"], MESSAGE, utf8=True) == {}
    assert new.received[0].recipients == ["zoë@example.com"]


async def test_closing_says_goodbye(mail_server: ServerFactory, pool: PoolFactory) -> None:
    server = await mail_server()
    mail = pool(server)
    await mail.send(SENDER, ["ada@example.com"], MESSAGE)
    await mail.close()
    async with asyncio.timeout(60):
        while not all(transport.is_closing() for transport in server.transports):
            await asyncio.sleep(0)


async def test_filters_that_take_longer_than_a_step_may(mail_server: ServerFactory, pool: PoolFactory) -> None:
    """Who hangs up while the server looks through a message sends it again, and it arrives twice."""
    server = await mail_server()

    async def look_through() -> None:
        await asyncio.sleep(2.5)

    server.before_data = look_through
    assert await pool(server, timeout=2).send(SENDER, ["ada@example.com"], MESSAGE) == {}
    assert len(server.received) == 1
