"""How values are written on pages: numbers, times, durations, sizes, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

#: Characters of JSON on a page: a payload may have megabytes, and a browser should stay usable.
LONGEST_JSON = 200_000
_SPANS = ((172_800, 86_400, "d"), (7_200, 3_600, "h"), (120, 60, "min"), (0, 1, "s"))
_TICKS = re.compile("`([^`]+)`")
_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>\b(?:true|false|null|NaN|Infinity)\b)|(?P<number>-?\d[\d.eE+-]*)'
)


def number(value: float | None) -> str:
    """``12,345``; at most one digit behind the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def short(value: float | None) -> str:
    """``12.3k``: at most four figures."""
    if value is None:
        return "–"
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}" if abs(value) < size * 999.5 else f"{value / size:.0f}{unit}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """``3.7 µs``, ``340 ms``, ``12.5 s``, ``4 min``; about two figures."""
    if seconds is None:
        return "–"
    if 0 < seconds < 0.0000995:
        return f"{seconds * 1_000_000:.2g} µs"
    if seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return span(seconds)


def span(seconds: float) -> str:
    """``45 s``, ``12 min``, ``5 h``, ``3 d``."""
    size, unit = next((size, unit) for least, size, unit in _SPANS if seconds >= least)
    return f"{seconds / size:.0f} {unit}"


def ago(time: datetime, now: datetime) -> str:
    """``3 min ago``, ``in 2 h``, ``just now``."""
    far = (now - time).total_seconds()
    if abs(far) < 1:
        return "just now"
    return f"{span(far)} ago" if far > 0 else f"in {span(-far)}"


def stamp(time: datetime) -> str:
    """``2030-01-31 08:00:00 UTC``."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def exact(time: datetime) -> str:
    """The same with milliseconds."""
    text = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
    return f"{text[:-3]} UTC"


def clock(time: datetime) -> str:
    """``08:00:00 UTC``."""
    return f"{time.astimezone(UTC):%H:%M:%S} UTC"


def size(count: float | None) -> str:
    """Bytes as people write them: ``1.2 MB``."""
    if count is None:
        return "–"
    for least, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= least:
            return f"{count / least:.3g} {unit}"
    return f"{count:.0f} B"


def percent(part: float, whole: float) -> str:
    """``2.5 %``; a dash of nothing."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f} %" if share == 0 or share >= 9.95 else f"{share:.1f} %"


def first_line(text: Any) -> str:
    """The first line of a text, at most 300 characters."""
    line = str(text).strip().partition("\n")[0]
    return line if len(line) <= 300 else line[:300] + " …"


def sentence(text: Any) -> str:
    """A message of an error as a sentence: errors begin with a small letter."""
    told = str(text)
    return told[:1].upper() + told[1:]


def line(value: Any) -> str:
    """JSON in one line, at most 200 characters; nothing for nothing."""
    if value in (None, {}, []):
        return ""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:200] + " …"


def ticks(text: str) -> list[tuple[bool, str]]:
    """Give a text in pieces: True with each that stands in backticks."""
    return [(at % 2 == 1, piece) for at, piece in enumerate(_TICKS.split(text))]


def tokens(value: Any) -> Iterator[tuple[str, str]]:
    """Give JSON with indents in pieces, each with its kind: ``key``, ``text``, ``number``, ``word``, or "" between."""
    written = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    text, at = written[:LONGEST_JSON], 0
    for found in _TOKEN.finditer(text):
        yield "", text[at : found.start()]
        kind = str(found.lastgroup)
        yield ("key" if kind == "text" and text[found.end() : found.end() + 1] == ":" else kind), found.group()
        at = found.end()
    yield "", text[at:]
    if len(written) > len(text):
        yield "", f"\n… {len(written) - len(text):,} characters more"


FILTERS = {
    each.__name__: each
    for each in (
        number,
        short,
        duration,
        span,
        ago,
        stamp,
        exact,
        clock,
        size,
        percent,
        first_line,
        line,
        sentence,
        ticks,
        tokens,
    )
}
