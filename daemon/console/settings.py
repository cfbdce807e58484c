"""What the console can be told from outside: the section ``console`` of the settings."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr, field_validator

from daemon.family import Seconds

#: Shorter secrets of HMAC-SHA-256 can be guessed (RFC 7518, 3.2), bytes.
SHORTEST_SECRET = 32
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class ConsoleSettings(BaseModel):
    """The management API and the dashboard."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address the console listens on; `0.0.0.0` in a pod")
    port: int = Field(9180, ge=0, le=65535, description="port the console listens on")
    enabled: bool = Field(True, description="whether `arqd up` starts the console, and `arqd console` may")
    base_path: str = Field("", description="path it is served under, e.g. `/admin/queues`; none: `/`")
    trusted_proxies: str = Field(
        "", description="addresses of proxies whose `X-Forwarded-For` and `-Proto` count, `,` between them; `*`: all"
    )
    read_only: bool = Field(False, description="refuse every change, whatever the role")
    session: Seconds = Field(12 * 3600, gt=0, description="how long a browser stays logged in, seconds")
    submit_rate: int = Field(
        200, ge=0, description="jobs a second one caller may submit through a console process; 0: any number"
    )
    max_body: ByteSize = Field(ByteSize(10_000_000), ge=1000, description="largest request accepted, bytes or `25MB`")
    jwt_secret: SecretStr | None = Field(None, description="secret of JWTs signed with HS256, 32 bytes or more")
    jwks_file: Path | None = Field(None, description="file of the public keys (JWKS) of JWTs signed with RS256, EdDSA")
    jwt_issuer: str | None = Field(None, description="`iss` a JWT must have; none: any")
    jwt_audience: str | None = Field(None, description="`aud` a JWT must have; none: it is not looked at")
    jwt_role_claim: str = Field("role", min_length=1, description="claim of a JWT that holds its role, or roles")
    audit_entries: int = Field(100_000, ge=100, description="how many entries the audit log keeps; the oldest go")
    audit_submissions: bool = Field(True, description="whether submitted jobs stand in the audit log, too")

    def missing(self) -> str | None:
        """Why there is no console; None where there is one."""
        if not self.enabled:
            return "switched off (ARQD_CONSOLE__ENABLED)"
        if find_spec("fastapi") is None or find_spec("jwt") is None:
            return "not installed: install arqd[console]"
        return None

    @field_validator("base_path")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        path = path.rstrip("/")
        if not _BASE_PATH.fullmatch(path):
            raise ValueError("write a path such as /admin/queues: letters, digits, . _ ~ - between slashes")
        return path

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < SHORTEST_SECRET:
            raise ValueError(f"must be {SHORTEST_SECRET} bytes or more: openssl rand -base64 48 makes one")
        return secret
