"""The layout of a queue's keys and records, ``{f}:schema``: releases that differ in it must not share the queue."""

from __future__ import annotations

import contextlib
from typing import Any

from redis.exceptions import OutOfMemoryError

from daemon.errors import ConfigurationError
from daemon.keys import FamilyKeys

#: Raised by a release that another one cannot work beside: it writes keys or records that the other reads wrongly.
LAYOUT = 1
_OURS = b"%d" % LAYOUT


async def claim_layout(redis: Any, keys: FamilyKeys) -> None:
    """See that a queue has the layout of this release; one that has none gets it.

    Raises:
        ConfigurationError: it has another one.
    """
    name = keys.key("schema")
    found = await redis.get(name)
    if found is None:
        # On a full server the next worker writes it: this one is to end the jobs that fill it.
        with contextlib.suppress(OutOfMemoryError):
            if not await redis.set(name, LAYOUT, nx=True):
                found = await redis.get(name)
    if found not in (None, _OURS):
        raise other_release(keys.family, _text(found))


async def other_layout(redis: Any, keys: FamilyKeys) -> str | None:
    """Say that a queue has another layout than this release, None where it has not; nothing is written."""
    found = await redis.get(keys.key("schema"))
    return None if found in (None, _OURS) else str(other_release(keys.family, _text(found)))


def other_release(family: str, theirs: str) -> ConfigurationError:
    """Give the error of a queue that has the layout of another release."""
    return ConfigurationError(
        f"{family}: the keys of this queue are of another release (layout {theirs}, this one has {LAYOUT}): "
        "run that release until the queue is empty, or give this one a Redis of its own (docs/operations/upgrades.md)"
    )


def _text(found: bytes) -> str:
    return found.decode("utf-8", "backslashreplace")
