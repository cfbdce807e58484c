"""What an operator can set about maintenance. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from handlers.maintenance.payloads import AGES, FILES, WarmCache

_COLUMN = re.compile(r"(?:[A-Za-z_]\w{0,62}\.){1,2}[A-Za-z_]\w{0,62}")


def _split(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


Folders = Annotated[tuple[Path, ...], BeforeValidator(_split)]


class MaintenanceSettings(BaseModel):
    """Maintenance: what may be removed, and which caches are warmed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    temp_roots: Folders = Field((), description="folders in which `temp_files` may be removed, e.g. `/var/tmp/shop`")
    log_roots: Folders = Field((), description="folders in which `old_logs` may be removed")
    tables: dict[str, str] = Field(
        default_factory=dict,
        description="what rows are removed by: `ARQD_MAINTENANCE__TABLES__EXPIRED_SESSIONS=sessions.expires_at`, "
        "`…__AUDIT_LOGS`, `…__NOTIFICATIONS`: table and column of a time in the database",
    )
    sources: dict[str, str] = Field(
        default_factory=dict,
        description="what caches are warmed from: `ARQD_MAINTENANCE__SOURCES__PRICES=shop.caches:prices`",
    )
    warm: tuple[WarmCache, ...] = Field(
        (), description='caches warmed every 15 minutes: `[{"cache_key": …, "data_source": …, "ttl": "1h"}]`'
    )
    cache_prefix: str = Field("cache:", min_length=1, max_length=64, description="what keys of caches begin with")

    @field_validator("temp_roots", "log_roots")
    @classmethod
    def _absolute(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute() or len(root.parts) < 3:
                raise ValueError(f"{root} is no folder of its own: write an absolute path such as /var/tmp/shop")
        return roots

    @field_validator("tables")
    @classmethod
    def _columns(cls, tables: dict[str, str]) -> dict[str, str]:
        for name, column in tables.items():
            if name not in AGES or name in FILES:
                known = ", ".join(sorted(AGES.keys() - set(FILES)))
                raise ValueError(f"{name!r} is nothing that stands in a table: there are {known}")
            if not _COLUMN.fullmatch(column):
                raise ValueError(f"{name}: write table.column, e.g. sessions.expires_at")
        return tables

    @field_validator("cache_prefix")
    @classmethod
    def _apart(cls, prefix: str) -> str:
        if prefix.startswith(("arq", "{")):
            raise ValueError("arqd's own keys begin so: choose another prefix")
        return prefix

    @field_validator("warm")
    @classmethod
    def _with_keys(cls, warm: tuple[WarmCache, ...]) -> tuple[WarmCache, ...]:
        if any(each.cache_key is None for each in warm):
            raise ValueError("each of them has cache_key, data_source and ttl")
        return warm

    def roots(self, target_type: str) -> tuple[Path, ...]:
        """Give the folders in which a kind of files may be removed."""
        return self.temp_roots if target_type == "temp_files" else self.log_roots
