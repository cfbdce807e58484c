"""What a job carries: a frozen pydantic model that names its family and its function.

    class SendEmail(Payload, family="email", function="send_email", priority=1, returns=SentEmail):
        to: str
        subject: str

A producer needs only this class; the function itself may live in another code base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel, to_snake

from daemon.job import priority_level

FAMILY_NAME = re.compile(r"[a-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class PayloadSpec:
    """Where a payload goes: family, function, priority (1-10, 0: the family's) and result type (None: plain JSON).

    ``keyed``: its class has a ``dedup_key()`` of its own.
    """

    family: str
    function: str
    priority: int
    returns: Any
    keyed: bool = False


def _accept_camel_case(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


class PayloadModel(BaseModel):
    """A model inside a payload or a result: strict about unknown fields, survives JSON both ways.

    Fields are snake_case; camelCase names are accepted as aliases. Bytes travel as base64. A validation error
    never quotes the input, since payloads carry personal data.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        alias_generator=AliasGenerator(validation_alias=_accept_camel_case),
        ser_json_bytes="base64",
        val_json_bytes="base64",
        hide_input_in_errors=True,
    )


class Payload(PayloadModel):
    """Base class of every job's payload.

    Class arguments:
        family: the queue family, ``[a-z0-9_-]+``. Inherited when not given, as are priority and result type.
        function: the registered function's name; default the class name in snake_case.
        priority: default priority, 1 (first) to 10 (last) or a name; default the family's.
        returns: type of the result (a pydantic model or any type pydantic knows); default plain JSON data.

    Raises:
        TypeError: when the class is defined without a family, or with a wrong name or priority.
    """

    __job__: ClassVar[PayloadSpec]

    def dedup_key(self) -> str | None:
        """Give the dedup key of its job where the caller gives none; a class that has one overrides this."""
        return None

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
        level = priority_level(priority) if priority else 0
        keyed = cls.dedup_key is not Payload.dedup_key
        cls.__job__ = PayloadSpec(family, function or to_snake(cls.__name__), level, returns, keyed)
