"""csv, ndjson and json: files that grow at their end, and so can be gone on with."""

from __future__ import annotations

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from handlers.exports.formats.cells import cell
from handlers.exports.payloads import ExportType
from handlers.integrations.formulas import neutral


class _TextWriter(ABC):
    """See `Writer`."""

    def __init__(self, path: Path, names: Sequence[str], size: int) -> None:
        self.names = list(names)
        self.file = path.open("r+b" if size else "wb")
        self.file.truncate(size)
        self.file.seek(size)
        if not size:
            self.file.write(self.head())

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        self.file.write(self.body(rows))

    def flush(self) -> int:
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.write(self.tail())
        self.file.close()

    def discard(self) -> None:
        self.file.close()

    def head(self) -> bytes:
        """What stands before the rows."""
        return b""

    @abstractmethod
    def body(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """Give some rows."""

    def tail(self) -> bytes:
        """What stands behind the rows."""
        return b""


class CsvWriter(_TextWriter):
    """RFC 4180 in UTF-8, with a line of names; None is an empty field."""

    def head(self) -> bytes:
        return self._lines([[neutral(name) for name in self.names]])

    def body(self, rows: Sequence[Sequence[Any]]) -> bytes:
        return self._lines([[cell(value) for value in row] for row in rows])

    def _lines(self, rows: list[list[Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        return text.getvalue().encode("utf-8", "replace")


class NdjsonWriter(_TextWriter):
    """An object in each line."""

    def body(self, rows: Sequence[Sequence[Any]]) -> bytes:
        return b"".join([line + b"\n" for line in self.objects(rows)])

    def objects(self, rows: Sequence[Sequence[Any]]) -> list[bytes]:
        """Give each row as an object. What JSON has no number for (NaN, infinity) is null."""
        names = self.names
        options: dict[str, Any] = {"bytes_mode": "base64", "inf_nan_mode": "null", "fallback": str}
        return [to_json(dict(zip(names, row, strict=True)), **options) for row in rows]


class JsonWriter(NdjsonWriter):
    """One array of objects, each in a line of its own."""

    def __init__(self, path: Path, names: Sequence[str], size: int) -> None:
        super().__init__(path, names, size)
        self._empty = self.file.tell() == len(self.head())

    def head(self) -> bytes:
        return b"["

    def body(self, rows: Sequence[Sequence[Any]]) -> bytes:
        if not rows:
            return b""
        joint = b"\n" if self._empty else b",\n"
        self._empty = False
        return joint + b",\n".join(self.objects(rows))

    def tail(self) -> bytes:
        return b"\n]\n"


TEXT_WRITERS: dict[ExportType, Callable[[Path, Sequence[str], int], _TextWriter]] = {
    "csv": CsvWriter,
    "ndjson": NdjsonWriter,
    "json": JsonWriter,
}
