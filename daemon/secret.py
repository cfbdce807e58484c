"""Marked fields: ``card: Secret[str]`` is encrypted wherever it is stored, and never shown.

A handler gets the value itself. A model's ``repr`` and its JSON show `daemon.encryption.MASK`; the JSON that travels to
Redis holds the encrypted value, since the codec hands the job's cipher to pydantic as its context.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, RootModel, TypeAdapter
from pydantic_core import core_schema, to_json

from daemon import codec
from daemon.encryption import CONTEXT, MASK, JobCipher, is_sealed, key_name, packed, unpacked
from daemon.errors import KeyMissing

T = TypeVar("T")

#: pydantic's own: what travels of them is the mask.
_MASKED = (pydantic.SecretStr, pydantic.SecretBytes, pydantic.Secret)


class SecretMark:
    """Marks a type as secret; written as ``Secret[str]``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        inner = handler(source)
        return core_schema.with_info_wrap_validator_function(
            _Opener(source),
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                _sealed, info_arg=True, schema=inner, when_used="json"
            ),
            metadata={"arqd_secret": True},
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described: dict[str, Any] = {**handler(schema), "writeOnly": True}
        if described.get("type") == "string":
            described.setdefault("format", "password")
        return described


#: A field that is encrypted wherever it is stored: ``Secret[str]``, ``Secret[bytes]``, ``Secret[Address] | None`` …
Secret = Annotated[T, SecretMark()]


class _Opener:
    """Reads a marked value: encrypted from Redis, as it is from a program."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._adapter: TypeAdapter[Any] | None = None

    def __call__(self, value: Any, handler: Callable[[Any], Any], info: core_schema.ValidationInfo[Any]) -> Any:
        if is_sealed(value):
            if not isinstance(info.context, dict) or CONTEXT not in info.context:
                raise ValueError("is encrypted: only a worker reads it")
            cipher: JobCipher | None = info.context[CONTEXT]
            if cipher is None:
                raise KeyMissing(key_name(unpacked(value)))
            if self._adapter is None:
                self._adapter = codec.new_adapter(self._source)
            # The type's own JSON first (bytes, nested models), then the field's constraints, which the handler holds.
            opened = cipher.open("field", unpacked(value))
            return handler(self._adapter.validate_json(opened, context=info.context))
        if isinstance(value, str) and value == MASK:
            raise ValueError("is the mask of a secret, not the secret: take it from the model, not from its JSON")
        return handler(value)


def _sealed(value: Any, handler: Callable[[Any], Any], info: core_schema.SerializationInfo[Any]) -> Any:
    """Write a marked value: encrypted for Redis, where a missing key is an error, masked for everybody else."""
    if not isinstance(info.context, dict) or CONTEXT not in info.context:
        return MASK
    cipher: JobCipher | None = info.context[CONTEXT]
    if cipher is None:
        raise ValueError("a secret field needs a key: give ARQD_ENCRYPTION_KEYS, or keyring=")
    written = to_json(handler(value), bytes_mode="base64", inf_nan_mode="strings")
    # Nobody can see it in what is written around it.
    codec.check_readable(written, "secret")
    return packed(cipher.seal("field", written))


class SecretValue(RootModel[Secret[Any]]):
    """A secret in a job that is enqueued by name: ``{"card": SecretValue("4111 …")}``."""

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(None, MASK)]


def has_secrets(schema: Any) -> bool:
    """Tell whether a pydantic core schema holds a marked type, at any depth."""
    if isinstance(schema, dict):
        metadata = schema.get("metadata")
        if isinstance(metadata, dict) and metadata.get("arqd_secret"):
            return True
        return any(has_secrets(inner) for inner in schema.values())
    return isinstance(schema, list | tuple) and any(has_secrets(inner) for inner in schema)


@cache
def model_has_secrets(model: type[BaseModel]) -> bool:
    """Tell whether a model holds a marked type, at any depth."""
    return has_secrets(model.__pydantic_core_schema__)


def secret_fields(model: type[BaseModel]) -> frozenset[str]:
    """Give the fields of a model whose ``repr`` must not show what they hold."""
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if any(isinstance(mark, SecretMark) for mark in field.metadata) or _mentions(field.annotation, _is_mark, set())
    )


def refuse_masked(where: str, annotation: Any) -> None:
    """Refuse pydantic's own secret types, of which only the mask would travel.

    Raises:
        TypeError: naming what to write instead.
    """
    if _mentions(annotation, _is_masked, set()):
        raise TypeError(f"{where}: of SecretStr, SecretBytes and pydantic's Secret only asterisks travel: "
                        "write Secret[str] or Secret[bytes], Secret from daemon.secret")  # fmt: skip


def _is_mark(part: Any) -> bool:
    return isinstance(part, SecretMark)


def _is_masked(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, _MASKED)


def _mentions(annotation: Any, test: Callable[[Any], bool], seen: set[int]) -> bool:
    """Tell whether an annotation, or a model in it, mentions something."""
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if test(annotation):
        return True
    parts = [typing.get_origin(annotation), getattr(annotation, "__value__", None), *typing.get_args(annotation)]
    parts += getattr(annotation, "__metadata__", ())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            parts += [field.annotation, *field.metadata]
    return any(part is not None and _mentions(part, test, seen) for part in parts)
