"""Who gets a mail with a link, in payloads: pydantic, nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from handlers.integrations.addresses import Address


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


#: One address or up to 100; each gets a mail of its own.
Recipients = Annotated[tuple[Address, ...], BeforeValidator(_one_or_many), Field(max_length=100)]
#: Languages that arqd's own texts are written in.
Language = Literal["en", "fr"]
