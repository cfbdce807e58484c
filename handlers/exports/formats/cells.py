"""What a value becomes in a cell of a table, and in a text."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from handlers.integrations.formulas import FORMULA, neutral


def _json(value: Any) -> str:
    return to_json(value, bytes_mode="base64", inf_nan_mode="null").decode()


_NUMBERS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    float: repr,
    Decimal: lambda value: f"{value:f}",
}
_OTHERS: dict[type, Callable[[Any], str]] = {
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: _json(value).strip('"'),
    UUID: str,
    bytes: lambda value: base64.b64encode(value).decode(),
    dict: _json,
    list: _json,
}


def text_of(value: Any) -> str:
    """Give a value as text: times in ISO 8601, bytes as base64, structures as JSON."""
    kind = type(value)
    convert = _NUMBERS.get(kind) or _OTHERS.get(kind)
    if convert is not None:
        return convert(value)
    return text_of(value.value) if isinstance(value, Enum) else str(value)


def cell(value: Any) -> Any:
    """Give a value as the csv module writes it: texts made `neutral`, numbers and None as they are."""
    kind = type(value)
    if kind is str:
        return "'" + value if value[:1] in FORMULA else value
    if kind is int or value is None:
        return value
    convert = _NUMBERS.get(kind)
    # A number is no text that somebody has typed: a negative one stays what it is.
    return convert(value) if convert is not None else neutral(text_of(value))
