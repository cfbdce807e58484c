"""What an operator can set about calls to other services. Pydantic only: the settings are built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, field_validator

from daemon.family import Seconds
from handlers.integrations.allow_list import checked_entry


def _split(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _base_url(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("write a URL, https://api.example.com")
    return url.rstrip("/")


#: The address of a service's API, as an operator writes it.
BaseUrl = Annotated[str, AfterValidator(_base_url)]


#: For how long a server may put a job off with its Retry-After, seconds.
WAIT_LIMIT = 259_200.0


class HttpSettings(BaseModel):
    """Calls to other services: limits, and which of this network's own addresses a job's URL may lead to."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    allow: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (),
        description="hosts, addresses and networks that are not public and that URLs in jobs may lead to all the same, "
        "e.g. `hooks.internal 10.1.0.0/16`",
    )
    connect_timeout: Seconds = Field(
        5, gt=0, le=600, description="limit on finding a host and connecting to it, seconds"
    )
    read_timeout: Seconds = Field(20, gt=0, le=3600, description="limit on a server's silence, seconds")
    timeout: Seconds = Field(30, gt=0, le=3600, description="limit on a whole call, seconds")
    wait_limit: Seconds = Field(
        WAIT_LIMIT,
        ge=0,
        description="so long after a job was enqueued, each wait that a server asks for (429 or 503 with Retry-After) "
        "counts as a try, seconds or `3d`",
    )
    max_body: ByteSize = Field(
        ByteSize(10_000_000), ge=1000, description="largest reply, as it comes and decompressed; bytes or `25MB`"
    )
    pool_size: int = Field(50, ge=1, le=10_000, description="connections a family has in one process at a time")
    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust instead of the usual ones")

    @field_validator("allow")
    @classmethod
    def _known_form(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_entry(entry) for entry in entries)
