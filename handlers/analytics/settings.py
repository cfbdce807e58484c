"""What an operator can set about analytics. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from handlers.analytics.payloads import Zone


class AnalyticsSettings(BaseModel):
    """Analytics: whose days, and where metrics are collected from."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    zone: Zone = Field("UTC", description="time zone of days, weeks and months, `Europe/Berlin`")
    sources: dict[str, str] = Field(
        default_factory=dict,
        description="URLs metrics are collected from: "
        "`ARQD_ANALYTICS__SOURCES__ADS=https://ads.example/accounts/{account_id}/metrics`",
    )
    tokens: dict[str, SecretStr] = Field(
        default_factory=dict, description="bearer tokens for them: `ARQD_ANALYTICS__TOKENS__ADS`"
    )

    @field_validator("sources")
    @classmethod
    def _urls(cls, sources: dict[str, str]) -> dict[str, str]:
        for name, url in sources.items():
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"{name}: write a URL, https://ads.example/accounts/{{account_id}}/metrics")
        return {name.lower(): url for name, url in sources.items()}
