"""A family's budget of bytes (``max_bytes``): what is counted, and an operator's own, which wins over the settings'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ByteSize, TypeAdapter, ValidationError

from daemon.broker import MAX_EVENTS
from daemon.errors import InvalidJob

#: Fields `read_budget` needs of the keys ``conf`` and ``clock``.
CONF, CLOCK = ("max_bytes", "own:max_bytes", "events"), ("bytes", "events")

_SIZE = TypeAdapter(ByteSize)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a family may take in Redis, and takes.

    Attributes:
        max_bytes: its budget, None for none (an operator's, too).
        source: ``settings`` or ``operator``; the latter wins.
        bytes: what its jobs and events take, None where nothing is counted.
    """

    max_bytes: int | None
    source: Literal["settings", "operator"]
    bytes: int | None


def read_budget(conf: Mapping[str, str | None], clock: Mapping[str, str | None]) -> Budget | None:
    """Give a family's budget as it stands in Redis; None where nobody has set one."""
    ours, own = conf.get("max_bytes"), conf.get("own:max_bytes")
    if ours is None and own is None:
        return None
    text = ours if own is None else own
    most = int(text) if text else None
    events = min(int(clock.get("events") or 0), int(conf.get("events") or MAX_EVENTS))
    taken = None if most is None else int(clock.get("bytes") or 0) + events
    return Budget(most, "settings" if own is None else "operator", taken)


def budget_change(text: str) -> tuple[str, str, str]:
    """Give the change that sets an operator's own budget: ``500MB``, bytes, or ``none``.

    Raises:
        InvalidJob: for anything else.
    """
    try:
        most = "" if text == "none" else str(int(_SIZE.validate_python(text)))
    except ValidationError:
        most = "0"
    # Scripts count in doubles.
    if most and not 0 < int(most) < 2**53:
        raise InvalidJob(f"{text[:40]!r} is no budget: write a size, e.g. 500MB or 2GiB, or none")
    return "conf", "own:max_bytes", most


def size_text(size: int) -> str:
    """Give a number of bytes for people: ``12.3MB``."""
    return ByteSize(size).human_readable(decimal=True)
