"""What a job carries: a frozen pydantic model that names its family and its function.

    class SendEmail(Payload, family="email", function="send_email", priority=1, returns=SentEmail):
        to: str
        subject: str

A producer needs only this class; the function itself may live in another code base.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel, to_snake
from pydantic.errors import PydanticInvalidForJsonSchema

from daemon.encryption import MASK
from daemon.job import priority_level
from daemon.keys import FAMILY_NAME
from daemon.secret import refuse_masked, secret_fields

_TEXTS = ("title", "description")


@dataclass(frozen=True, slots=True)
class PayloadSpec:
    """Where a payload goes: family, function, priority (1-10, 0: the family's) and result type (None: plain JSON).

    ``keyed``: its class has a ``dedup_key()`` or a ``group_key()`` of its own. ``version``: of its schema.
    ``encrypted``: its family is.
    """

    family: str
    function: str
    priority: int
    returns: Any
    keyed: bool = False
    version: int = 1
    encrypted: bool = False


def _accept_camel_case(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


class PayloadModel(BaseModel):
    """A model inside a payload or a result: strict about unknown fields, survives JSON both ways.

    Fields are snake_case; camelCase names are accepted as aliases. Bytes travel as base64. A validation error
    never quotes the input, since payloads carry personal data; a field marked `daemon.secret.Secret` is encrypted
    wherever it is stored, and ``repr`` shows asterisks in its place.

    Raises:
        TypeError: when the class is defined with pydantic's own secret types, of which only asterisks would travel.
    """

    __secret_fields__: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        alias_generator=AliasGenerator(validation_alias=_accept_camel_case),
        ser_json_bytes="base64",
        val_json_bytes="base64",
        hide_input_in_errors=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            refuse_masked(f"{cls.__name__}.{name}", field.annotation)
        cls.__secret_fields__ = secret_fields(cls)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, MASK if name in self.__secret_fields__ else value


class Payload(PayloadModel):
    """Base class of every job's payload.

    Class arguments:
        family: the queue family, ``[a-z0-9_-]+``. Inherited when not given, as are priority and result type.
        function: the registered function's name; default the class name in snake_case.
        priority: default priority, 1 (first) to 10 (last) or a name; default the family's.
        returns: type of the result (a pydantic model or any type pydantic knows); default plain JSON data.
        version: of its schema, 1 or more: raise it with a change that workers of the release before must not see.
            They park such a job, and workers of this one turn older payloads into today's with `upgrade`.
        encrypted: the family is encrypted: what its jobs carry and give is stored encrypted, a producer without a key
            refuses them, and ``repr`` shows none of their fields.

    Raises:
        TypeError: when the class is defined without a family, or with a wrong name, priority or version.
    """

    __job__: ClassVar[PayloadSpec]

    def dedup_key(self) -> str | None:
        """Give the dedup key of its job where the caller gives none; a class that has one overrides this."""
        return None

    def group_key(self) -> str | None:
        """Give the group of its job where the caller gives none; a class that has one overrides this."""
        return None

    @classmethod
    def upgrade(cls, fields: dict[str, Any], version: int) -> dict[str, Any]:
        """Give today's fields for those of a payload of an older version; a class with versions overrides this.

        Args:
            fields: as they were written, plain JSON data.
            version: which version that was.
        """
        return fields

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # pydantic hands class arguments to both hooks; they are for the one below, which sees the finished class.
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        family: str | None = None,
        function: str | None = None,
        priority: int | str | None = None,
        returns: Any = None,
        version: int | None = None,
        encrypted: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        inherited: PayloadSpec | None = getattr(cls, "__job__", None)
        family = family or (inherited.family if inherited else None)
        if family is None:
            raise TypeError(f"{cls.__name__} names no family: class {cls.__name__}(Payload, family='...')")
        if not FAMILY_NAME.match(family):
            raise TypeError(f"{cls.__name__}: family {family!r} must match [a-z0-9_-]+")
        if inherited:
            priority = inherited.priority if priority is None else priority
            returns = inherited.returns if returns is None else returns
            version = inherited.version if version is None else version
            encrypted = inherited.encrypted if encrypted is None else encrypted
        refuse_masked(f"{cls.__name__}: returns", returns)
        level = priority_level(priority) if priority else 0
        keyed = cls.dedup_key is not Payload.dedup_key or cls.group_key is not Payload.group_key
        version = 1 if version is None else version
        if version < 1:
            raise TypeError(f"{cls.__name__}: version {version!r} of its schema must be 1 or more")
        function = function or to_snake(cls.__name__)
        cls.__job__ = PayloadSpec(family, function, level, returns, keyed, version, bool(encrypted))
        if encrypted:
            cls.__secret_fields__ = frozenset(cls.model_fields)


@cache
def schema_mark(model: type[Payload]) -> str:
    """Give what tells a payload's schema from that of another release: ``"<version>#<hash of its JSON schema>"``."""
    try:
        schema = _without_texts(model.model_json_schema())
    except PydanticInvalidForJsonSchema:
        schema = sorted(model.model_fields)
    digest = hashlib.sha256(json.dumps(schema, sort_keys=True, default=str).encode()).digest()
    # Six characters are 36 bits: every record carries them.
    return f"{model.__job__.version}#{base64.urlsafe_b64encode(digest)[:6].decode()}"


def _without_texts(schema: Any) -> Any:
    """Leave out what only people read: a corrected docstring is no other schema."""
    if isinstance(schema, dict):
        kept = {name: part for name, part in schema.items() if not isinstance(part, str) or name not in _TEXTS}
        return {name: _without_texts(part) for name, part in kept.items()}
    return [_without_texts(part) for part in schema] if isinstance(schema, list) else schema
