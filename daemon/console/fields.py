"""Types of what requests hold, in bodies and in queries."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _no_truth(value: Any) -> Any:
    """Refuse JSON's true and false, which Python would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _given(text: Any) -> Any:
    """Take an empty text, which a form sends for a field that nobody filled in, for none."""
    return None if text == "" else text


def _not_empty(text: Any) -> Any:
    """Refuse an empty text: where jobs are acted on, a name that turned out empty must not stand for all of them."""
    if text == "":
        raise ValueError("it is empty: leave it out to ask for nothing, or name one")
    return text


def _not_null(value: Any) -> Any:
    """Refuse null where there is nothing to take away: it would change nothing."""
    if value is None:
        raise ValueError("it cannot be taken away: leave it out, or name another")
    return value


Counted = BeforeValidator(_no_truth)
IfGiven = BeforeValidator(_given)
Whole = Annotated[int, Counted]
Number = Annotated[float, Counted]
Lasting = BeforeValidator(_not_null)
Named = Annotated[str, BeforeValidator(_not_empty)]
Level = Annotated[int | str, Counted, Field(description="1 (first) to 10 (last), or a name such as `high`")]
Duration = Annotated[float | str, Counted, Field(description="seconds, or text such as `30s`, `15m`, `2d`")]
