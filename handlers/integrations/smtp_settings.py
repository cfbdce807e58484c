"""How the mail server is reached. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

DEFAULT_PORTS = {"none": 25, "starttls": 587, "tls": 465}


class SmtpSettings(BaseModel):
    """The mail server. Without a host, messages land as ``.eml`` files in the spool folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str | None = Field(None, min_length=1, description="mail server; none: messages go to the spool folder")
    port: int | None = Field(
        None, ge=1, le=65535, description="its port; default by `tls`: 587 starttls, 465 tls, 25 none"
    )
    tls: Literal["none", "starttls", "tls"] = Field(
        "starttls", description="`starttls`, `tls` (from the first byte; the default on port 465) or `none`"
    )
    username: str | None = Field(None, min_length=1, description="user for AUTH; none: no AUTH")
    password: SecretStr | None = Field(None, description="password for AUTH")
    verify: bool = Field(True, description="check the server's certificate and its name")
    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust instead of the system's")
    local_hostname: str | None = Field(None, min_length=1, description="name given in EHLO; default this machine's")
    timeout: float = Field(
        20,
        gt=0,
        le=600,
        description="limit on each step of the conversation, seconds; the reply to a whole message has the job's time",
    )
    pool_size: int = Field(10, ge=1, le=1000, description="connections kept open by one process")

    @model_validator(mode="before")
    @classmethod
    def _tls_by_port(cls, data: Any) -> Any:
        # On 465 the server waits for TLS and says nothing: STARTTLS would hang until the timeout.
        if isinstance(data, dict) and "tls" not in data and str(data.get("port")) == "465":
            return data | {"tls": "tls"}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together: set both or neither")
        if self.username and self.tls == "none" and not self.is_loopback:
            raise ValueError("a password is not sent unencrypted to another machine: set tls to starttls or tls")
        return self

    @property
    def effective_port(self) -> int:
        """The port that is used."""
        return self.port or DEFAULT_PORTS[self.tls]

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False
