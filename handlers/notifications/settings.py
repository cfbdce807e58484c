"""What an operator can set about notifications. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return () if value.strip() == "none" else tuple(value.replace(",", " ").split())


class NotificationsSettings(BaseModel):
    """Notifications of users."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    channels: Annotated[tuple[Literal["push", "email"], ...], BeforeValidator(_split)] = Field(
        ("push", "email"), description="by which users are reached who have said nothing of it; `none`: in the app only"
    )
