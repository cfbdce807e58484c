"""From a job's body to the arguments of its function: decoded, validated and of this release, in one pass."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import CoreConfig, SchemaValidator
from typing_extensions import TypedDict

from daemon import codec
from daemon.encryption import CONTEXT, JobCipher
from daemon.errors import ConfigurationError, OtherRelease
from daemon.payload import Payload, schema_mark
from daemon.secret import has_secrets


class _Options(TypedDict, total=False):
    """A job's own options: total tries, backoff, tags, delay or due time in ms, keep (`daemon.producing.options`); what
    it carries (`daemon.carried`)."""

    n: int
    b: tuple[float, bool, float | None, float]
    g: list[str]
    d: int
    u: int
    k: dict[str, str]
    q: str
    c: dict[str, str]


Bound = tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]


class _UsualBody:
    """The body most jobs have: one payload of this release, no options. The payload's own validator is enough for it,
    which takes half the time of one for the whole.
    """

    def __init__(self, model: type[Payload], schema: str) -> None:
        self._validate = model.__pydantic_validator__.validate_json
        self._schema = schema

    def read(self, body: bytes, schema: str) -> tuple[Payload] | None:
        """Give the arguments; None for any other body, and for what is not valid."""
        if (schema == self._schema or not schema) and body.startswith(b"[") and body.endswith(b"]"):
            try:
                return (self._validate(body[1:-1]),)
            except ValidationError:
                return None
        return None


class Binder:
    """Decodes a body into the arguments of one function, typed by its annotations, in one pass.

    A function whose only parameter after the context is a pydantic model also takes that model's fields as keyword
    arguments, which is how a stock producer calls it: ``enqueue_job("send_email", to=...)``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        hints = {parameter.name: _annotation(function, parameter) for parameter in parameters}
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        types = [hints.get(p.name, Any) for p in positional]
        self._names = [p.name for p in positional]
        self.model = types[0] if len(parameters) == 1 and _is_model(types[0] if types else None) else None
        payload = self.model if self.model is not None and issubclass(self.model, Payload) else None
        self._payload, self._schema = payload, schema_mark(payload) if payload else ""
        self._usual = _UsualBody(payload, self._schema) if payload else None
        #: Whether its payload class is to be encrypted whole, and whether some of its arguments are marked.
        self.encrypted = payload is not None and payload.__job__.encrypted
        shapes: list[Any] = [tuple[tuple(types)] if types else tuple[()]]  # type: ignore[misc]
        self._typed = all(p.default is p.empty for p in positional) and len(positional) == len(parameters)
        self._exact = self._envelope(shapes[0], NotRequired[dict[str, Any]]) if self._typed else None
        self._model_kwargs = self._envelope(tuple[()], self.model) if self.model else None
        self._adapters = {
            p.name: TypeAdapter(hints.get(p.name, Any), config=None if _is_model(hints.get(p.name)) else _CONFIG)
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        self.marked = any(has_secrets(adapter.core_schema) for adapter in self._adapters.values())

    @staticmethod
    def _envelope(args: Any, kwargs: Any) -> SchemaValidator:
        # A TypedDict, since its result is a plain dict: a model costs an object and copies its defaults for each job.
        fields = {
            "a": args,
            "k": kwargs,
            "o": NotRequired[_Options],
            "t": NotRequired[int | None],
        }
        schema = TypeAdapter(TypedDict("Envelope", fields)).core_schema  # type: ignore[operator]
        # Hiding the input is a matter of the outermost validator, which a TypedDict's own config does not reach.
        return SchemaValidator(schema, CoreConfig(hide_input_in_errors=True, val_json_bytes="base64"))

    def bind(self, body: bytes, schema: str = "", cipher: JobCipher | None = None) -> Bound:
        """Give ``(args, kwargs, options)``.

        Args:
            body: in clear.
            schema: the payload's `daemon.payload.schema_mark`, "" where it was enqueued by name.

        Raises:
            pydantic.ValidationError: when the arguments are not what the function's annotations say.
            OtherRelease: when they are of a newer release than this one.
            KeyMissing: when a marked field is encrypted with a key the cipher does not have.
            Unreadable: when the body is not JSON of the expected shape.
        """
        if self._usual is not None and not self.marked and (args := self._usual.read(body, schema)):
            return args, _NO_KWARGS, _NO_OPTIONS
        first = None
        context = {CONTEXT: cipher} if self.marked else None
        if self._exact is not None:
            try:
                envelope = self._exact.validate_json(codec.whole_body(body), context=context)
                if schema not in ("", self._schema) and (older := self._of_other(body, schema, None, context)):
                    return older
                kwargs = envelope.get("k", _NO_KWARGS)
                if "t" in envelope:
                    return envelope["a"], kwargs, {"t": envelope["t"]}
                return envelope["a"], kwargs, envelope.get("o", _NO_OPTIONS)
            except ValidationError as error:
                first = error
        if first is not None and self._payload is not None and (older := self._of_other(body, schema, first, context)):
            return older
        return self._bind_by_name(body, first, context)

    def _of_other(
        self, body: bytes, schema: str, first: ValidationError | None, context: dict[str, Any] | None
    ) -> Bound | None:
        """Read a payload of another release: an older version is upgraded, a newer one refused, the same left alone.

        One of the same version that does not fit this schema is refused as well where its own is another: a release
        that forgot to raise the version must not cost it its jobs.
        """
        args, kwargs, options = codec.decode_body(body)
        version, _, digest = (schema or self._schema).partition("#")
        own = self._payload.__job__.version if self._payload else 0
        if self._payload is None or not version.isdigit() or len(args) != 1 or not isinstance(args[0], dict):
            return None
        if int(version) > own:
            raise OtherRelease(f"v{version}", f"version {version} of its payload is newer than {own}, known here")
        if int(version) < own:
            fields = self._payload.upgrade(args[0], int(version))
            adapter = self._adapters[self._names[0]]
            return (adapter.validate_json(codec.encode(fields), context=context),), kwargs, options
        if first is not None and f"{version}#{digest}" != self._schema:
            raise OtherRelease(f"#{digest}", "its payload was written for another schema than the one known here")
        return None

    def _bind_by_name(self, body: bytes, first: ValidationError | None, context: dict[str, Any] | None) -> Bound:
        args, kwargs, options = codec.decode_body(body)
        if self._model_kwargs is not None and not args and not (kwargs.keys() & set(self._names)):
            fields = codec.whole_body(body if kwargs else b'[],"k":{}')
            envelope = self._model_kwargs.validate_json(fields, context=context)
            return (envelope["k"],), {}, options
        if first is not None and not kwargs:
            raise first
        by_name, adapters = {**dict(zip(self._names, args, strict=False)), **kwargs}, self._adapters
        typed = {
            name: adapters[name].validate_json(codec.encode(value), context=context) if name in adapters else value
            for name, value in by_name.items()
        }
        given = self._names[: len(args)]
        rest = {name: value for name, value in typed.items() if name not in given}
        return [*(typed[name] for name in given), *args[len(self._names) :]], rest, options


_NO_OPTIONS: Mapping[str, Any] = {}
_NO_KWARGS: Mapping[str, Any] = {}
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True)


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Resolve one parameter's type; the context's and the result's are often imported for type checkers only.

    Raises:
        ConfigurationError: when it cannot be resolved.
    """
    if parameter.annotation is parameter.empty:
        return Any
    holder = type("Holder", (), {"__annotations__": {parameter.name: parameter.annotation}})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)[parameter.name]
    except NameError as error:
        where = f"{function.__qualname__}: the type of {parameter.name!r}"
        raise ConfigurationError(f"{where} cannot be resolved: {error}") from None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
