"""What an operator can set about exports. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from handlers.integrations.modules import Modules


class ExportsSettings(BaseModel):
    """Exports: what can be exported, and from where."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    datasets: Modules = Field(
        (), description="modules that register datasets (docs/families/exports.md), e.g. `shop.datasets`"
    )
    database_url: SecretStr | None = Field(
        None, description="database that is read, a replica for example; default `ARQD_DATABASE_URL`"
    )
    spool_dir: Path = Field(Path("var/spool/exports"), description="where files are written before they are stored")
