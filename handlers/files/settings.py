"""What an operator can set about uploads. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, field_validator

from daemon.family import Seconds
from handlers.files.types import DOCX, XLSX, type_named
from handlers.integrations.folders import Folders


def _split(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


class FilesSettings(BaseModel):
    """Uploads: where they may be, which ones are taken, how they are scanned, what a job may use."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source_dirs: Folders = Field((), description="folders from which files may be read by path, `:` between them")
    temp_dir: Path | None = Field(None, description="folder whose disk temporary files are on; default the system's")
    processes: int | None = Field(None, ge=1, le=256, description="processes that work; default one per core")
    memory: ByteSize = Field(
        ByteSize(500_000_000), ge=100_000_000, description="memory one job may use, bytes or `1GB`"
    )
    max_size: ByteSize = Field(ByteSize(104_857_600), ge=1, description="largest file, bytes or `100MB`")
    types: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        ("image/jpeg", "image/png", "application/pdf"),
        description="types that are taken, `,` between them: `image/jpeg` or the suffix, `docx`",
    )
    text_types: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (DOCX, XLSX, "text/plain", "text/html"), description="types that are taken, too, where text is extracted"
    )
    virus_scan: bool = Field(
        True, description="whether files are scanned; `false` lets them pass unscanned, and each is told in the log"
    )
    clamd: str = Field(
        "unix:///run/clamav/clamd.ctl",
        description="where clamd listens: `unix:///path` or `tcp://host:3310`",
        pattern=r"^(unix:///.+|tcp://[^/:]+:\d+)$",
    )
    clamd_timeout: Seconds = Field(60, gt=0, le=600, description="limit on clamd's silence, seconds")
    quarantine: str = Field(
        "quarantine", pattern=r"^[A-Za-z0-9_-]+$", description="folder of the object store where infected files go"
    )
    max_pixels: int = Field(100_000_000, ge=10_000, description="most pixels of a picture, or of a page that is drawn")
    max_unpacked: ByteSize = Field(
        ByteSize(1_000_000_000), ge=1000, description="most bytes an archive may have unpacked, bytes or `1GB`"
    )
    max_members: int = Field(10_000, ge=1, description="most files in an archive, those of archives inside it, too")
    max_ratio: int = Field(200, ge=2, description="how many times its size an archive may have unpacked")
    max_depth: int = Field(3, ge=1, le=10, description="how deep archives may be inside each other")
    max_text: ByteSize = Field(ByteSize(20_000_000), ge=1000, description="most text that is extracted, bytes")

    @field_validator("types", "text_types")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(type_named(name) for name in names)
