"""What the social family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.integrations.texts import no_nul

__all__ = ["CollectMentions", "CollectedMentions", "Media", "PublishPost", "PublishedPost"]

Network = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
AccountId = Annotated[str, Field(min_length=1, max_length=200)]


class Media(PayloadModel):
    """A file of a post: a ``url``, a ``path`` in an allowed folder or an object's ``key``; ``alt`` describes it."""

    url: str | None = Field(None, max_length=4000)
    path: str | None = Field(None, max_length=4096)
    key: str | None = Field(None, max_length=1024)
    type: str = Field("image/jpeg", pattern=r"^(image|video|audio)/[a-z0-9.+-]{1,50}$")
    alt: str = Field("", max_length=1500)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(given is not None for given in (self.url, self.path, self.key)) != 1:
            raise ValueError("give one source: a url, a path or the key of an object")
        return self


class PublishedPost(PayloadModel):
    """A post that stands on its network; ``existed``: it did before this try."""

    network: str
    account_id: str
    id: str
    url: str | None = None
    published_at: datetime
    existed: bool = False


class PublishPost(Payload, family="social", function="publish_post", returns=PublishedPost):
    """Publish a post, once.

    Fields:
        network, account_id: which account of ``ARQD_SOCIAL__ACCOUNTS``.
        text: plain text.
        media: up to four files.
        publish_at: not before; none: now.
        language: of the text, ``en``.
        idempotency_key: two jobs with the same key are one post; default the job's id.
    """

    network: Network
    account_id: AccountId
    text: str = Field(min_length=1, max_length=25_000)
    media: list[Media] = Field(default_factory=list, max_length=4)
    publish_at: AwareDatetime | None = None
    language: str | None = Field(None, pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)

    def group_key(self) -> str | None:
        """Accounts take turns; one that was told to wait does not hold up the others."""
        return f"{self.network}:{self.account_id}"


class CollectedMentions(PayloadModel):
    """How many mentions were new."""

    found: int


class CollectMentions(Payload, family="social", function="collect_mentions", returns=CollectedMentions):
    """Store mentions that are new since the last time.

    Fields:
        network, account_id: with whose eyes.
        query: words or a ``#tag``; none: mentions of the account.
        since: the first time, nothing older.
    """

    network: Network
    account_id: AccountId
    query: Annotated[str, AfterValidator(no_nul), Field(min_length=1, max_length=300)] | None = None
    since: AwareDatetime | None = None

    def group_key(self) -> str | None:
        """As `PublishPost.group_key`."""
        return f"{self.network}:{self.account_id}"
