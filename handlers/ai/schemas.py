"""Replies against a JSON schema; the library is a compiled one, loaded when the family starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema_rs

#: Longest text of one fault, characters.
LONGEST_FAULT = 300


def checker(schema: dict[str, Any]) -> Callable[[Any], list[str]]:
    """Give what tells the faults of a reply.

    Raises:
        ValueError: the schema is none, or refers to another one elsewhere, which is never fetched.
    """
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_nothing)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(str(error).partition("\n")[0][:LONGEST_FAULT]) from None

    def faults(data: Any) -> list[str]:
        found = []
        for error in validator.iter_errors(data):
            where = ".".join(str(part) for part in error.instance_path)
            found.append(f"{where}: {error.message}".removeprefix(": ")[:LONGEST_FAULT])
        return found

    return faults


def _nothing(uri: str) -> Any:
    raise ValueError("schemas elsewhere are not fetched")
