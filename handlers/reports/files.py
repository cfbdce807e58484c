"""The files of a report, all from the same figures. Pure work, run in a thread or a process."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.integrations.formulas import neutral
from handlers.integrations.recipients import Language
from handlers.reports.figures import Measured, Report, change
from handlers.reports.payloads import Format
from handlers.reports.texts import WORDS, changed, days, number, step_label, title

TEMPLATE = Path(__file__).with_name("report.typ")
CONTENT_TYPES: dict[Format, str] = {
    "pdf": "application/pdf",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How a PDF looks."""

    lang: Language
    font: str
    font_dirs: tuple[Path, ...] = ()


def as_data(report: Report, lang: Language) -> dict[str, Any]:
    """Give the figures as plain data, numbers as they are."""
    period = report.period
    return {
        "title": title(report, lang),
        "kind": report.kind,
        "period": {"first": str(period.first), "last": str(period.last)},
        "before": {"first": str(period.before.first), "last": str(period.before.last)},
        "made_at": report.made_at.isoformat(timespec="seconds"),
        "empty": report.is_empty,
        "note": WORDS[lang]["empty"] if report.is_empty else None,
        "metrics": [_metric(each, report, lang) for each in report.measured],
    }


def _metric(each: Measured, report: Report, lang: Language) -> dict[str, Any]:
    steps = zip(report.period.steps, each.now.series, each.before.series, strict=True)
    return {
        "name": each.about.name,
        "label": each.about.label(lang),
        "unit": each.about.unit,
        "value": each.now.whole,
        "before": each.before.whole,
        "change": each.change,
        "series": [{"at": at.isoformat(), "value": now, "before": before} for at, now, before in steps],
        "parts": [
            {"name": part.name, "value": part.value, "before": part.before, "change": change(part.value, part.before)}
            for part in each.parts
        ],
    }


def as_json(report: Report, look: Look) -> bytes:
    """Give the figures as JSON."""
    return json.dumps(as_data(report, look.lang), ensure_ascii=False, indent=1).encode()


def as_csv(report: Report, look: Look) -> bytes:
    """Give the figures as a table: a line for each total, step and part."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["metric", "unit", "scope", "at", "value", "before"])
    data = as_data(report, look.lang)
    if data["empty"]:
        writer.writerow(["", "", "note", "", data["note"], ""])
    for each in data["metrics"]:
        head = [each["name"], each["unit"]]
        writer.writerow([*head, "total", data["period"]["first"], each["value"], each["before"]])
        writer.writerows([*head, "step", step["at"], step["value"], step["before"]] for step in each["series"])
        writer.writerows(
            [*head, "part", neutral(part["name"]), part["value"], part["before"]] for part in each["parts"]
        )
    return text.getvalue().encode()


def as_pdf(report: Report, look: Look) -> bytes:
    """Give the report as a PDF: charts are drawn, fonts are in it."""
    import typst

    done: Any = typst.compile(  # type: ignore[misc]
        TEMPLATE.read_bytes(),
        sys_inputs={"report": json.dumps(_told(report, look))},
        font_paths=list(look.font_dirs),
        ignore_system_fonts=True,
        timestamp=report.made_at,
    )
    assert isinstance(done, bytes)
    return done


def _told(report: Report, look: Look) -> dict[str, Any]:
    """Give what the template shows: every number as the text it is shown as, and as a share of its chart's height."""
    lang = look.lang
    return {
        "lang": lang,
        "font": look.font,
        "words": WORDS[lang],
        "title": title(report, lang),
        "days": days(report.period, lang),
        "before": days(report.period.before, lang),
        "made": f"{days(type(report.period)(report.made_at.date(), report.made_at.date()), lang)}, "
        f"{report.made_at:%H:%M} UTC",
        "empty": report.is_empty,
        "metrics": [] if report.is_empty else [_shown(each, report, lang) for each in report.measured],
    }


def _shown(each: Measured, report: Report, lang: Language) -> dict[str, Any]:
    unit, better = each.about.unit, each.about.better
    known = [value for value in (*each.now.series, *each.before.series) if value is not None]
    top = _ceiling(max(known, default=0.0))
    largest = max((part.value for part in each.parts), default=0.0)

    def share(value: float | None) -> float | None:
        return None if value is None else max(0.0, value / top)

    return {
        "label": each.about.label(lang),
        "value": number(each.now.whole, unit, lang),
        "before": number(each.before.whole, unit, lang),
        "change": changed(each.change, lang),
        "tone": _tone(each.change, better),
        "axis": [number(top * part, unit, lang) for part in (0, 0.5, 1)],
        "bars": [
            {"label": step_label(at, report.period, lang), "now": share(now), "before": share(before)}
            for at, now, before in zip(report.period.steps, each.now.series, each.before.series, strict=True)
        ],
        "parts": [
            {
                "name": part.name,
                "value": number(part.value, unit, lang),
                "before": number(part.before, unit, lang),
                "change": changed(change(part.value, part.before), lang),
                "tone": _tone(change(part.value, part.before), better),
                "share": part.value / largest if largest > 0 else 0,
            }
            for part in each.parts
        ],
    }


def _tone(value: float | None, better: str | None) -> str:
    if not value or better is None:
        return "plain"
    return "good" if (value > 0) == (better == "more") else "bad"


def _ceiling(value: float) -> float:
    """Give a round number that is not below the largest one, for the axis."""
    if value <= 0:
        return 1.0
    size: float = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.01
    while size * 10 < value:
        size *= 10
    return next(step * size for step in (1, 2, 4, 5, 8, 10) if step * size >= value)


WRITERS: dict[Format, Callable[[Report, Look], bytes]] = {"pdf": as_pdf, "csv": as_csv, "json": as_json}
