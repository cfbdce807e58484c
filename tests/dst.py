"""The table of docs/schedules.md that tells when schedules are due on the days the clocks change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

PAGE = (Path(__file__).parents[1] / "docs" / "schedules.md").read_text("utf-8")


@dataclass(frozen=True)
class Row:
    """A schedule on such a day: ``due`` are its times from ``begin`` to ``end``, ms; ``shift`` is in minutes."""

    zone: str
    expression: str
    day: str
    shift: int
    begin: int
    end: int
    due: list[int]

    def __str__(self) -> str:
        return f"{self.zone} {self.day} {self.expression}"


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _rows() -> list[Row]:
    rows = []
    for heading, table in re.findall(r"^\*\*(.+?)\*\*.*?\n\n(\|.*?)(?:\n\n|\Z)", PAGE, re.MULTILINE | re.DOTALL):
        name, _, day = heading.partition(", ")
        midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(name))
        shift = (midnight + timedelta(days=1)).utcoffset() - midnight.utcoffset()  # type: ignore[operator]
        begin, end = (midnight.replace(hour=hour) for hour in (1, 4))
        for line in table.splitlines()[2:]:
            expression, times = (cell.strip() for cell in line.strip("|").split("|"))
            due = [
                _ms(datetime.fromisoformat(f"{day}T{time}")) for time in re.findall(r"\d\d:\d\d[+-]\d\d:\d\d", times)
            ]
            minutes = round(shift.total_seconds() / 60)
            rows.append(Row(name, expression.strip("`"), day, minutes, _ms(begin), _ms(end), due))
    return rows


ROWS = _rows()
