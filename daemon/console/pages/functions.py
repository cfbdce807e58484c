"""What forms know of functions: which there are, what their payloads take, a payload to begin with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from daemon.console.services import Services
from daemon.errors import InvalidJob


@dataclass(frozen=True, slots=True)
class Function:
    """A function to choose; ``key`` names it in a form, ``model`` is that of its payload, None where it has none."""

    family: str
    name: str
    model: type[BaseModel] | None = None

    @property
    def key(self) -> str:
        """Family and name."""
        return f"{self.family}/{self.name}"


@dataclass(frozen=True, slots=True)
class PayloadField:
    """A field of a payload, in words."""

    name: str
    type: str
    required: bool
    default: str
    about: str


def functions(services: Services) -> list[Function]:
    """Give the functions that are registered here, by family and name."""
    models = {(family, name): model for family, name, model in services.catalog.models()}
    return sorted(
        (
            Function(family.name, name, models.get((family.name, name)))
            for family in services.catalog.families.values()
            for name in family.functions
        ),
        key=lambda function: function.key,
    )


def chosen(known: list[Function], key: str) -> Function | None:
    """Give the function of a key, None where there is none."""
    return next((function for function in known if function.key == key), None)


def payload_of(text: str) -> Any:
    """Read a payload from a form.

    Raises:
        InvalidJob: when it is no JSON, saying where.
    """
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        told = (
            f"line {error.lineno}, column {error.colno}: {error.msg}"
            if isinstance(error, json.JSONDecodeError)
            else error
        )
        raise InvalidJob(f"the payload is not JSON, {told}") from None


def payload_fields(function: Function | None) -> list[PayloadField]:
    """Give what a function's payload takes; nothing where that is not known."""
    if function is None or function.model is None:
        return []
    schema = function.model.model_json_schema()
    required = schema.get("required", ())
    return [
        PayloadField(
            name,
            _type(each, schema.get("$defs", {})),
            name in required,
            json.dumps(each["default"]) if "default" in each else "",
            each.get("description", ""),
        )
        for name, each in schema.get("properties", {}).items()
    ]


def example(function: Function | None) -> str:
    """Give a payload to begin with: the required fields, empty."""
    empty = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    if function is None or function.model is None:
        return "{}"
    schema = function.model.model_json_schema()
    names = [name for name in schema.get("properties", {}) if name in schema.get("required", ())]
    kinds = {name: _resolved(schema["properties"][name], schema.get("$defs", {})) for name in names}
    return json.dumps({name: empty.get(kind.get("type", ""), "") for name, kind in kinds.items()}, indent=2)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give what a reference or the first of several types means."""
    if "$ref" in schema:
        return _resolved(definitions.get(schema["$ref"].rpartition("/")[2], {}), definitions)
    if "enum" in schema:
        return {"type": "string"}
    return _resolved(schema["anyOf"][0], definitions) if "anyOf" in schema else schema


def _type(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> str:
    """Give a type in words: ``text``, ``list of numbers``, ``one of "en", "fr"``."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = definitions.get(name, {})
        return _type(target, definitions, depth + 1) if "enum" in target or depth > 2 else name
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    for many in ("anyOf", "oneOf"):
        if many in schema:
            return " or ".join(dict.fromkeys(_type(each, definitions, depth) for each in schema[many]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), definitions, depth)}"
    text = "secret text" if schema.get("writeOnly") else schema.get("format", "text")
    return str({"string": text, "integer": "whole number", "object": "mapping"}.get(kind, kind))
