"""The functions of some families by name: which family has one, and whether a payload fits it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from daemon.codec import encode, encode_body
from daemon.errors import InvalidJob, InvalidPayload
from daemon.family import Family
from daemon.functions import JobFunction
from daemon.payload import Payload
from daemon.running.binding import Binder


class Catalog:
    """Finds functions and checks payloads as the worker will.

    Args:
        families: those that are registered here, loaded.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = {family.name: family for family in families}
        self._binders: dict[tuple[str, str], Binder] = {}

    def find(self, function: str, family: str | None = None) -> tuple[str, JobFunction | None]:
        """Give the family of a function, and the function itself when it is registered here.

        Args:
            family: where it is looked for; one that is not registered here is taken as it is.

        Raises:
            InvalidJob: when no family has it, or several do.
        """
        if family is not None and family not in self.families:
            return family, None
        looked = self.families.values() if family is None else [self.families[family]]
        having = [found for found in looked if function in found.functions]
        if len(having) == 1:
            return having[0].name, having[0].functions[function]
        if having:
            raise InvalidJob(f"{function!r} is in {', '.join(found.name for found in having)}: name the family")
        known = ", ".join(name for found in looked for name in found.functions)
        hint = "" if family else "; with a family named it is enqueued for a worker that knows it"
        raise InvalidJob(f"no function {function[:70]!r} here; known are {known}{hint}")

    def models(self) -> Iterator[tuple[str, str, type[BaseModel]]]:
        """Give family, function and payload model of each function that has one."""
        for family in self.families.values():
            for function in family.functions.values():
                model = self._binder(family.name, function).model
                if model is not None:
                    yield family.name, function.name, model

    def checked(self, family: str, function: JobFunction | None, payload: Any) -> Payload | list[Any] | dict[str, Any]:
        """Validate a payload; of a function with a `Payload` it is that, which brings its priority and result type.

        Args:
            function: None, of a function that is registered elsewhere: its worker validates.

        Raises:
            InvalidPayload: naming each wrong field.
        """
        if function is None:
            return payload if payload is not None else {}
        binder = self._binder(family, function)
        if payload is None:
            payload = {} if binder.model is not None else []
        given = payload if isinstance(payload, list) else [payload]
        try:
            args, _, _ = binder.bind(encode_body(encode(given, "payload")))
        except ValidationError as error:
            wrong = [(_where(part["loc"]), str(part["msg"])) for part in error.errors(include_input=False)]
            raise InvalidPayload(function.name, wrong) from None
        only = args[0] if len(args) == 1 else None
        return only if isinstance(only, Payload) else payload

    def _binder(self, family: str, function: JobFunction) -> Binder:
        key = family, function.name
        if key not in self._binders:
            self._binders[key] = Binder(function.call)
        return self._binders[key]


def _where(place: tuple[int | str, ...]) -> str:
    """Leave out which argument of the call it is."""
    return ".".join(map(str, place[2:]))
