"""Plots as SVG: bars with ranges, latencies on a logarithmic scale, lines.

They have no background, follow the reader's light or dark scheme, and say everything in text, shape and position, so
that colour only helps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 170, 110, 26, 44
STYLE = """text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:15px}.own{font-weight:700}
.bar{fill:#8c959f}.bar.own{fill:#0969da}.line,.range{stroke:#57606a;stroke-width:1.5;fill:none}
.grid{stroke:#57606a;stroke-opacity:.25}.dot{fill:#57606a}.dot.own{fill:#0969da}.line.own{stroke:#0969da;stroke-width:2.5}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6e7681}.bar.own{fill:#4493f8}.line,.range{stroke:#9198a1}
.grid{stroke:#9198a1}.dot{fill:#9198a1}.dot.own{fill:#4493f8}.line.own{stroke:#4493f8}}"""
DASHES = ("", "7 4", "2 4", "10 3 2 3", "1 6")


def bars(title: str, rows: Sequence[tuple[str, Sequence[float]]], own: str) -> str:
    """One bar a row as long as the median of its values, with their range as a line; the number stands beside it.

    Args:
        rows: label and values.
        own: label of the row that stands out.
    """
    largest = max(max(values) for _, values in rows)
    parts = []
    for i, (label, values) in enumerate(rows):
        y, middle = TOP + i * ROW, sorted(values)[len(values) // 2]
        low, end, high = (LEFT + _span() * value / largest for value in (min(values), middle, max(values)))
        bar = _class("bar", label, own)
        parts += [
            _label(label, y, own),
            f'<rect class="{bar}" x="{LEFT}" y="{y - 9}" width="{end - LEFT:.1f}" height="14"/>',
            f'<path class="range" d="M{low:.1f} {y - 2}H{high:.1f}M{low:.1f} {y - 6}v8M{high:.1f} {y - 6}v8"/>',
            f'<text x="{high + 8:.1f}" y="{y + 3}">{_number(middle)}</text>',
        ]
    return _svg(title, TOP + len(rows) * ROW, parts)


def spans(title: str, rows: Sequence[tuple[str, float, float]], own: str) -> str:
    """A line a row from p50 (dot) to p99 (bar across) on a logarithmic scale; both numbers stand beside it."""
    low = math.floor(math.log10(min(first for _, first, _ in rows)))
    high = math.ceil(math.log10(max(last for _, _, last in rows)))

    def x(value: float) -> float:
        return LEFT + _span() * (math.log10(value) - low) / max(high - low, 1)

    parts = []
    bottom = TOP + len(rows) * ROW
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP - 14}V{bottom - 10}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 8}" text-anchor="middle">{10.0**power:g}</text>')
    for i, (label, first, last) in enumerate(rows):
        y = TOP + i * ROW
        parts += [
            _label(label, y, own),
            f'<path class="range" d="M{x(first):.1f} {y - 2}H{x(last):.1f}m0 -5v10"/>',
            f'<circle class="{_class("dot", label, own)}" cx="{x(first):.1f}" cy="{y - 2}" r="5"/>',
            f'<text x="{x(last) + 8:.1f}" y="{y + 3}">{_number(first)} – {_number(last)}</text>',
        ]
    return _svg(title, bottom + 16, parts)


def lines(title: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], own: str) -> str:
    """A line a system over the named cases, each dashed in its own way and labelled at its end."""
    height, bottom = 300, TOP + 260
    largest = max(value for values in series.values() for value in values if value is not None)
    step = _span() / max(len(names) - 1, 1)
    parts = []
    for i, name in enumerate(names):
        at = LEFT + i * step
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>')
    for number, (label, values) in enumerate(series.items()):
        points = [
            (LEFT + i * step, bottom - (bottom - TOP) * value / largest)
            for i, value in enumerate(values)
            if value is not None
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if DASHES[number % len(DASHES)] else ""
        parts.append(f'<path class="{_class("line", label, own)}" d="M{path}"{dash}/>')
        parts += [f'<circle class="{_class("dot", label, own)}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
        told = ", ".join(_number(value) for value in values if value is not None)
        weight = _class("", label, own).strip()
        parts.append(f'<text class="{weight}" x="8" y="{points[0][1] + 4:.1f}">{escape(label)}</text>')
        parts.append(f"<desc>{escape(label)}: {told}</desc>")
        parts += [
            f'<text x="{x + 6:.1f}" y="{y - 8:.1f}" font-size="11">{_number(value)}</text>'
            for (x, y), value in zip(points, (each for each in values if each is not None), strict=True)
        ]
    return _svg(title, height + 30, parts)


def _span() -> float:
    return WIDTH - LEFT - RIGHT


def _class(name: str, label: str, own: str) -> str:
    return f"{name} own" if label == own else name


def _label(label: str, y: float, own: str) -> str:
    weight = _class("", label, own).strip()
    return f'<text class="{weight}" x="{LEFT - 10}" y="{y + 3}" text-anchor="end">{escape(label)}</text>'


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            f'<text class="title" x="8" y="20">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )
