"""What an operator can set about the object store. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from daemon.family import Seconds


class ObjectStoreSettings(BaseModel):
    """The store of files; where it is says ``ARQD_OBJECT_STORE_URL``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    access_key: str | None = Field(None, description="access key of the bucket")
    secret_key: SecretStr | None = Field(None, description="its secret key")
    session_token: SecretStr | None = Field(None, description="token that goes with temporary keys")
    public_url: str | None = Field(
        None,
        description="address under which others reach the store, for links: of S3 in place of the endpoint, of a "
        "folder where a web server shows it",
    )
    timeout: Seconds = Field(60, gt=0, le=3600, description="limit on one call to it, seconds")
    link_lifetime: Seconds = Field(
        7 * 86_400, gt=0, le=7 * 86_400, description="how long a link to a file is good for, seconds or `2d`"
    )

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("a public URL starts with http:// or https://")
        return url and url.rstrip("/")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together: set both or neither")
        return self
