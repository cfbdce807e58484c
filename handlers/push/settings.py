"""What an operator can set about pushes. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from handlers.integrations.http_settings import BaseUrl


class PushSettings(BaseModel):
    """Pushes: the account at OneSignal."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    app_id: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")] | None = Field(
        None, description="id of the app at OneSignal, a UUID"
    )
    api_key: SecretStr | None = Field(None, description="its App API Key")
    url: BaseUrl = Field("https://api.onesignal.com", description="address of OneSignal's API")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.app_id is None) != (self.api_key is None):
            raise ValueError("ARQD_PUSH__APP_ID and ARQD_PUSH__API_KEY belong together: set both or neither")
        return self
