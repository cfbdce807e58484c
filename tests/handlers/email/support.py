"""A real SMTP server with chosen replies, certificates made at run time, and a stand-in for the job's context."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from daemon.keys import FamilyKeys
from daemon.producer import Producer
from handlers.email.payloads import SendEmail

PASSED = {"name": "Ada"}


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for the name localhost."""

    file: Path
    key_file: Path

    @property
    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key_file)
        return context


def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_certificate(folder: Path) -> Certificate:
    key = private_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key_file.write_bytes(pem(key))
    return made


@dataclass
class Received:
    """A message the server accepted, as it came."""

    sender: str
    recipients: list[str]
    data: bytes

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.data, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class _Smtp(SMTP):
    def __init__(self, handler: MailServer, **options: Any) -> None:
        super().__init__(handler, **options)
        self.mail_server = handler

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if transport not in self.mail_server.transports:
            self.mail_server.transports.append(transport)


@dataclass
class MailServer:
    """An aiosmtpd server in the test's own event loop.

    ``replies`` holds the answer to RCPT for an address, ``data_replies`` those to coming messages.
    """

    tls: str = "none"
    certificate: Certificate | None = None
    password: str | None = None
    smtputf8: bool = True
    replies: dict[str, str] = field(default_factory=dict)
    data_replies: list[str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    transports: list[asyncio.Transport] = field(default_factory=list)
    before_data: Any = None
    sessions: int = 0
    resets: int = 0
    secure_logins: int = 0
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> MailServer:
        context = self.certificate.server_context if self.certificate and self.tls != "none" else None

        def session() -> SMTP:
            self.sessions += 1
            with warnings.catch_warnings():
                # It counts only STARTTLS as encrypted, and warns of AUTH over TLS from the first byte.
                warnings.simplefilter("ignore")
                return _Smtp(
                    self,
                    hostname="mail.test",
                    enable_SMTPUTF8=self.smtputf8,
                    tls_context=context if self.tls == "starttls" else None,
                    require_starttls=self.tls == "starttls",
                    authenticator=self._login if self.password else None,
                    auth_required=self.password is not None,
                    auth_require_tls=self.tls == "starttls",
                )

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            session, "127.0.0.1", self.port, ssl=context if self.tls == "tls" else None
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.drop()
            # Transports are closed by callbacks of the loop.
            while any(not transport.is_closing() for transport in self.transports):
                await asyncio.sleep(0)

    def drop(self) -> None:
        """Cut every connection."""
        for transport in self.transports:
            transport.abort()
        self.transports.clear()

    def _login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        good = data.login == b"mailer" and data.password == (self.password or "").encode()
        self.secure_logins += good and server.transport.get_extra_info("sslcontext") is not None
        return AuthResult(success=good, handled=False)

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.resets += 1
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.replies.get(address, "250 OK")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.before_data is not None:
            await self.before_data()
        if self.data_replies:
            return self.data_replies.pop(0)
        assert isinstance(envelope.content, bytes)
        self.received.append(Received(envelope.mail_from or "", list(envelope.rcpt_tos), envelope.content))
        return "250 OK"


class Context(dict[Any, Any]):
    """What the functions use of a job's context, on a real Redis."""

    #: Seconds until the try's time limit.
    remaining = 30.0

    def __init__(self, redis: Redis, name: str = "job-1", **base: Any) -> None:
        super().__init__(base)
        self.keys = FamilyKeys.of("email")
        self.redis = redis
        self.job_id = self.keys.job_id(name)
        self.producer = Producer(redis)
        self.told: list[tuple[float, str | None]] = []

    def key(self, *parts: str) -> str:
        return self.keys.key("data", *parts)

    async def progress(self, percent: float, note: str | None = None) -> None:
        self.told.append((percent, note))


def email(to: str | Iterable[str] = "ada@example.com", **fields: Any) -> SendEmail:
    given: Mapping[str, Any] = {"subject": "Hi", "template": "welcome", "context": PASSED} | fields
    return SendEmail.model_validate({"to": to if isinstance(to, str) else tuple(to), **given})


async def pass_time(redis: Redis, seconds: float) -> None:
    """Let the time of Redis's keys pass: each is as near its end as it would be then."""
    for key in await redis.keys("*"):
        left = await redis.pttl(key)
        if left >= 0:
            await redis.pexpire(key, max(0, left - round(seconds * 1000)))
