"""xlsx: a row leaves the memory when the next one begins; a sheet that is full is followed by another one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from xlsxwriter import Workbook  # type: ignore[import-untyped]

from daemon.errors import PermanentError
from handlers.exports.formats.cells import text_of
from handlers.integrations.formulas import neutral

#: What a sheet holds, and what one of its cells does.
MAX_ROWS, MAX_TEXT = 1_048_576, 32_767
#: A cell's number has 15 digits; what has more is written as a text.
EXACT = 10**15
#: The first day a spreadsheet counts from that all of them agree on.
FIRST_DAY = date(1900, 3, 1)


class TooLongForXlsx(PermanentError):
    """A text is longer than a cell of xlsx holds."""


class XlsxWriter:
    """See `Writer`. Temporary files of the library lie beside the file."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._names = [neutral(name) for name in names]
        options = {
            "constant_memory": True,
            "tmpdir": str(path.parent),
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
        }
        self._book = Workbook(str(path), options)
        self._bold = self._book.add_format({"bold": True})
        self._time = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._day = self._book.add_format({"num_format": "yyyy-mm-dd"})
        self._written = 0
        self._new_sheet()

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            if self._line == MAX_ROWS:
                self._new_sheet()
            for number, value in enumerate(row):
                if value is not None:
                    self._put(number, value)
            self._line += 1
            self._written += 1

    def flush(self) -> int:
        raise NotImplementedError("an xlsx file is written when it is complete")

    def close(self) -> None:
        self._book.close()

    def discard(self) -> None:
        # Closing would write the whole file; its temporary files go with their folder.
        self._book.fileclosed = True

    def _new_sheet(self) -> None:
        self._sheet = self._book.add_worksheet()
        self._sheet.freeze_panes(1, 0)
        for number, name in enumerate(self._names):
            self._sheet.write_string(0, number, name, self._bold)
        self._line = 1

    def _put(self, number: int, value: Any) -> None:
        kind, sheet, line = type(value), self._sheet, self._line
        if kind is str:
            self._text(number, neutral(value))
        elif kind is bool:
            sheet.write_boolean(line, number, value)
        elif kind in (int, float, Decimal) and _is_exact(value):
            sheet.write_number(line, number, value)
        elif kind is datetime and value.date() >= FIRST_DAY:
            # A cell knows no zones: UTC, as everywhere.
            plain = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
            sheet.write_datetime(line, number, plain, self._time)
        elif kind is date and value >= FIRST_DAY:
            sheet.write_datetime(line, number, datetime.combine(value, time()), self._day)
        elif kind in (int, float, Decimal):
            self._text(number, text_of(value))
        else:
            self._text(number, neutral(text_of(value)))

    def _text(self, number: int, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise TooLongForXlsx(
                f"{self._names[number]} of row {self._written + 1} has {len(text):,} characters, a cell of xlsx holds "
                f"{MAX_TEXT:,}: export it as csv, or leave the column out"
            )
        self._sheet.write_string(self._line, number, text)


def _is_exact(value: float | Decimal) -> bool:
    """Whether a cell can hold a number as it is."""
    if isinstance(value, Decimal):
        return value.is_finite() and len(value.as_tuple().digits) <= 15
    return math.isfinite(value) and (type(value) is float or -EXACT < value < EXACT)
