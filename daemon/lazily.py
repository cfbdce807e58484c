"""What the producer needs of pydantic and of other modules for some jobs: imported with the first such job, not before.

    lazily.to_json(value)

From its first use on a name is an attribute of this module like any other: a call costs no import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "Backoff",
    "Payload",
    "PydanticSerializationError",
    "from_json",
    "model_has_secrets",
    "schema_mark",
    "to_json",
]

if TYPE_CHECKING:
    from pydantic_core import PydanticSerializationError, from_json, to_json

    from daemon.payload import Payload, schema_mark
    from daemon.retry import Backoff
    from daemon.secret import model_has_secrets
else:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in {"Payload", "schema_mark"}:
            from daemon import payload as home
        elif name == "model_has_secrets":
            from daemon import secret as home
        elif name == "Backoff":
            from daemon import retry as home
        else:
            import pydantic_core as home
        found = globals()[name] = getattr(home, name)
        return found
