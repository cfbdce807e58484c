"""Geometry of the charts: what stands where. `parts.html` draws it as SVG, in which the numbers stand as text, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from daemon.console.pages import formats
from daemon.statistics import Figures, Point, Step

#: Width of a column, and height of the whole, in the drawing's units.
COLUMN, HEIGHT = 10, 100
_SPARK_HEIGHT = 24


@dataclass(frozen=True, slots=True)
class Series:
    """What is counted: ``kind`` (``ok``, ``bad``, ``retry``) says how it is drawn."""

    kind: str
    label: str
    total: int
    of: Callable[[Figures], int]


@dataclass(frozen=True, slots=True)
class Part:
    """One bar of a column, from its upper end down."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """A minute or an hour: its bars, stacked, and its numbers."""

    x: int
    label: str
    title: str
    values: list[int]
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked bars over time; ``top`` is what the upper edge stands for."""

    title: str
    summary: str
    step: Step
    top: float
    width: int
    series: list[Series]
    columns: list[Column]
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Spark:
    """A small chart without axes: completed jobs upwards, failed ones on top of them."""

    summary: str
    width: int
    ok: str
    bad: str


KINDS: dict[str, tuple[str, str, Callable[[Figures], int]]] = {
    "completed": ("ok", "completed", lambda figures: figures.completed),
    "failed": ("bad", "failed", lambda figures: figures.failed),
    "retried": ("retry", "tried again", lambda figures: figures.retried),
}


def chart(title: str, points: Sequence[Point], step: Step, *kinds: str) -> Chart:
    """Draw what happened in each minute or hour; ``kinds`` are of `KINDS`, the first at the bottom."""
    series = [
        Series(kind, label, sum(of(point.figures) for point in points), of)
        for kind, label, of in (KINDS[name] for name in kinds)
    ]
    top = _round_up(max((sum(each.of(point.figures) for each in series) for point in points), default=0))
    columns = [_column(number, point, series, top, step) for number, point in enumerate(points)]
    told = ", ".join(f"{each.total:,} {each.label}" for each in series)
    return Chart(
        title=title,
        summary=f"{title}: {told} in the last {len(points)} {step}s; at most {top:,.0f} a {step}",
        step=step,
        top=top,
        width=max(1, len(points)) * COLUMN,
        series=series,
        columns=columns,
        labels=_labels([point.at for point in points], step),
    )


def _column(number: int, point: Point, series: Sequence[Series], top: float, step: Step) -> Column:
    values = [each.of(point.figures) for each in series]
    parts, floor = [], float(HEIGHT)
    for each, value in zip(series, values, strict=True):
        height = value / top * HEIGHT
        if value:
            # One job among thousands is still to be seen.
            height = max(height, 1.5)
            parts.append(Part(each.kind, round(floor - height, 2), round(height, 2)))
            floor -= height
    label = _label(point.at, step)
    title = ", ".join(f"{value:,} {each.label}" for each, value in zip(series, values, strict=True))
    return Column(number * COLUMN, label, f"{label} UTC: {title}", values, parts)


def spark(points: Sequence[Point]) -> Spark | None:
    """Draw a small one of completed and failed jobs; None where nothing ended."""
    pairs = [(point.figures.completed, point.figures.failed) for point in points]
    top = max((ok + bad for ok, bad in pairs), default=0)
    if not top:
        return None
    ok, bad = [], []
    for number, (done, failed) in enumerate(pairs):
        if done or failed:
            base = _SPARK_HEIGHT - done / top * (_SPARK_HEIGHT - 1)
            ok.append(f"M{number * 4} {_SPARK_HEIGHT}V{base:.1f}h3V{_SPARK_HEIGHT}z" if done else "")
            bad.append(
                f"M{number * 4} {base:.1f}v-{max(1, failed / top * (_SPARK_HEIGHT - 1)):.1f}h3V{base:.1f}z"
                if failed
                else ""
            )
    done, failed = (sum(column) for column in zip(*pairs, strict=True))
    summary = f"{done:,} completed and {failed:,} failed; at most {formats.short(top)} at once"
    return Spark(summary, len(pairs) * 4, "".join(ok), "".join(bad))


def _round_up(value: float) -> float:
    """Give the next number people like at an axis."""
    if value <= 4:
        return 4
    size = 10 ** (len(str(int(value))) - 1)
    return next(float(nice * size) for nice in (1, 2, 4, 5, 6, 8, 10) if nice * size >= value)


def _label(at: datetime, step: Step) -> str:
    return f"{at:%H:%M}" if step == "minute" else f"{at:%d %b %H:00}"


def _labels(times: Sequence[datetime], step: Step) -> list[str]:
    if not times:
        return []
    chosen = [times[0], times[len(times) // 4], times[len(times) // 2], times[3 * len(times) // 4], times[-1]]
    return [f"{at:%H:%M}" if step == "minute" or len(times) <= 25 else f"{at:%d %b}" for at in chosen]
