"""What an operator can set about reports. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from handlers.integrations.addresses import Address
from handlers.integrations.folders import Folders
from handlers.integrations.modules import Modules
from handlers.integrations.recipients import Language


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class ReportsSettings(BaseModel):
    """Reports: where figures come from, who gets them, how they look."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    metrics: Modules = Field(
        (), description="modules that register metrics (docs/families/reports.md), e.g. `shop.metrics`"
    )
    mail_to: Annotated[tuple[Address, ...], BeforeValidator(_split)] = Field(
        (), description="who gets the daily and weekly reports by mail, `,` between them"
    )
    lang: Language = Field("en", description="language of reports whose job names none, `en` or `fr`")
    font: str = Field("Libertinus Serif", description="font of PDFs; one of your own must lie in `font_dirs`")
    font_dirs: Folders = Field((), description="folders with fonts, `:` between them")
