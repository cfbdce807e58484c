"""The formats of exports: each writes rows into one file, a batch at a time, at constant memory.

``cells`` is what a value becomes in a text; ``text`` csv, ndjson and json, ``xlsx`` and ``parquet`` the others.
Everything here runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from daemon.errors import PermanentError
from handlers.exports.payloads import ExportType

CONTENT_TYPES: dict[ExportType, str] = {
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "parquet": "application/vnd.apache.parquet",
}
#: Formats of which a part that was written can be gone on with.
RESUMABLE: frozenset[ExportType] = frozenset({"csv", "ndjson", "json"})


class FormatMissing(PermanentError):
    """The worker lacks the library that writes this format."""


class Writer(Protocol):
    """A file that is being written."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows."""

    def flush(self) -> int:
        """Bring all of them to the disk, and give the file's size, bytes; of resumable formats only."""

    def close(self) -> None:
        """Complete the file."""

    def discard(self) -> None:
        """Let go of the file without completing it; nothing happens after `close`."""


def open_writer(kind: ExportType, path: Path, columns: Sequence[Any], size: int = 0) -> Writer:
    """Begin a file, or go on with one.

    Args:
        columns: SQLAlchemy's, with their names and types.
        size: bytes of it that count; what was written behind them is cut off. 0: a new file.

    Raises:
        FormatMissing: the library that writes it is not installed.
    """
    names = [str(column.key) for column in columns]
    try:
        if kind == "xlsx":
            from handlers.exports.formats.xlsx import XlsxWriter

            return XlsxWriter(path, names)
        if kind == "parquet":
            from handlers.exports.formats.parquet import ParquetWriter

            return ParquetWriter(path, names, [column.type for column in columns])
    except ModuleNotFoundError as error:
        raise FormatMissing(f"{kind} needs {error.name} at the worker: install arqd[exports]") from None
    from handlers.exports.formats.text import TEXT_WRITERS

    return TEXT_WRITERS[kind](path, names, size)
