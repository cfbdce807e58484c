"""A report's words, numbers and days, in English and French."""

from __future__ import annotations

from datetime import date, datetime

from handlers.integrations.recipients import Language
from handlers.reports.figures import Report
from handlers.reports.periods import Period

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "daily": "Daily report",
        "weekly": "Weekly report",
        "custom": "Report",
        "metric": "Figure",
        "value": "This period",
        "before": "Period before",
        "change": "Change",
        "empty": "There are no data for this period.",
        "made": "Made on",
        "page": "Page {page} of {pages}",
        "compared": "compared with",
        "of": "by",
        "part": "Name",
        "legend_now": "this period",
        "legend_before": "period before",
        "summary": "At a glance",
    },
    "fr": {
        "daily": "Rapport quotidien",
        "weekly": "Rapport hebdomadaire",
        "custom": "Rapport",
        "metric": "Indicateur",
        "value": "Cette période",
        "before": "Période précédente",
        "change": "Évolution",
        "empty": "Aucune donnée pour cette période.",
        "made": "Établi le",
        "page": "Page {page} sur {pages}",
        "compared": "par rapport au",
        "of": "par",
        "part": "Nom",
        "legend_now": "cette période",
        "legend_before": "période précédente",
        "summary": "En bref",
    },
}
_MONTHS = {
    "en": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    "fr": (
        *("janvier", "février", "mars", "avril", "mai", "juin"),
        *("juillet", "août", "septembre", "octobre", "novembre", "décembre"),
    ),
}
_DAYS = {
    "en": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    "fr": ("lun", "mar", "mer", "jeu", "ven", "sam", "dim"),
}
#: No break inside a number, nor between it and its unit.
THIN, NO_BREAK = "\u202f", "\u00a0"


def number(value: float | None, unit: str, lang: Language) -> str:
    """Give a number with its unit; a dash for one that is not known."""
    if value is None:
        return "–"
    if unit == "%":
        return _grouped(value * 100, 1, lang) + (f"{NO_BREAK}%" if lang == "fr" else "%")
    digits = 0 if float(value).is_integer() else 2
    return _grouped(value, digits, lang) + (f"{NO_BREAK}{unit}" if unit else "")


def changed(value: float | None, lang: Language) -> str:
    """Give a change with its sign."""
    if value is None:
        return "–"
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return sign + number(abs(value), "%", lang)


def _grouped(value: float, digits: int, lang: Language) -> str:
    text = f"{value:,.{digits}f}".replace("-", "−")
    return text.replace(",", THIN).replace(".", ",") if lang == "fr" else text


def day(value: date, lang: Language) -> str:
    """Give a day in full."""
    month = _MONTHS[lang][value.month - 1]
    first = "1er" if lang == "fr" and value.day == 1 else str(value.day)
    return f"{first} {month} {value.year}"


def days(period: Period, lang: Language) -> str:
    """Give the days of a period."""
    return day(period.first, lang) + (f" – {day(period.last, lang)}" if period.days > 1 else "")


def step_label(at: datetime, period: Period, lang: Language) -> str:
    """Give what stands under a bar."""
    if period.days == 1:
        return f"{at.hour:02}"
    return f"{_DAYS[lang][at.weekday()]} {at.day}" if period.days <= 14 else f"{at.day}/{at.month}"


def title(report: Report, lang: Language) -> str:
    """Give the report's title."""
    return WORDS[lang][report.kind]
