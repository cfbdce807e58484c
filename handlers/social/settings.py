"""What an operator can set about social networks. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, SecretStr

from handlers.integrations.folders import Folders
from handlers.integrations.http_settings import BaseUrl


def _split(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


class AccountSettings(BaseModel):
    """One account: its network, where that is, and who we are there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    network: str
    url: BaseUrl
    #: Bluesky: the handle; Mastodon: nothing, the token says it.
    user: str | None = None
    #: Mastodon: an access token; Bluesky: an app password.
    token: SecretStr


class SocialSettings(BaseModel):
    """Social networks: accounts, drivers, media."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    accounts: dict[str, AccountSettings] = Field(
        default_factory=dict,
        description="accounts by the name jobs call them (docs/families/social.md): "
        '`{"acme": {"network": "mastodon", "url": "https://mastodon.example", "token": "…"}}`',
    )
    drivers: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (), description="modules with drivers of other networks, e.g. `shop.networks`"
    )
    source_dirs: Folders = Field((), description="folders from which media may be read by path, `:` between them")
    max_media: ByteSize = Field(
        ByteSize(10_000_000), ge=1000, description="largest file attached to a post, bytes or `25MB`"
    )
