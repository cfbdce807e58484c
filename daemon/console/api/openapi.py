"""The OpenAPI document: that of the routes, with a schema of a submission for each registered function."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, create_model
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import models_json_schema

from daemon import __version__
from daemon.catalog import Catalog
from daemon.console.api.common import Viewer, problems
from daemon.console.api.examples import FAMILY, FUNCTION, add_examples
from daemon.console.problems import ProblemDetails
from daemon.console.services import services_of
from daemon.console.submissions import JobSubmission

router = APIRouter(tags=["system"])

_REF = "#/components/schemas/{model}"


@router.get("/openapi.json", responses=problems())
async def openapi(request: Request, actor: Viewer) -> dict[str, Any]:
    """This document."""
    return document(request.app, services_of(request).catalog)


def document(app: FastAPI, catalog: Catalog) -> dict[str, Any]:
    """Give the document; it is made once."""
    if app.openapi_schema is None:
        made = get_openapi(title="arqd", version=__version__, routes=app.routes, description=_DESCRIPTION)
        schemas = made["components"]["schemas"]
        _add(schemas, [ProblemDetails])
        _describe_functions(made, schemas, catalog)
        # They are of this family: where it is not, they would be false.
        if FUNCTION in getattr(catalog.families.get(FAMILY), "functions", ()):
            add_examples(made["paths"])
        # FastAPI describes its own answer to a wrong request, which is not ours.
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = made
    return app.openapi_schema


_DESCRIPTION = "Jobs, queues, dead letters and schedules of arqd. Errors are problem details (RFC 9457)."


def _add(schemas: dict[str, Any], models: list[type[BaseModel]]) -> None:
    _, described = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas.update(described.get("$defs", {}))


def _describe_functions(made: dict[str, Any], schemas: dict[str, Any], catalog: Catalog) -> None:
    """Let ``JobSubmission`` be one of the registered functions', each with its own payload."""
    models = [*_models(catalog)]
    if not models:
        return
    refs: dict[str, str] = {}
    for function, model in models:
        try:
            _add(schemas, [model])
        except PydanticInvalidForJsonSchema:
            schemas[model.__name__] = _any_payload(schemas["JobSubmission"], function)
        refs[model.__name__] = function
    one_of = {"oneOf": [{"$ref": _REF.format(model=name)} for name in refs]}
    if max(Counter(refs.values()).values()) == 1:
        mapping = {function: _REF.format(model=name) for name, function in refs.items()}
        one_of["discriminator"] = {"propertyName": "function", "mapping": mapping}  # type: ignore[assignment]
    schemas["JobSubmission"] = one_of


def _models(catalog: Catalog) -> list[tuple[str, type[JobSubmission]]]:
    """Give for each function a model of its submissions; where several families have it, they must be named."""
    payloads = {(family, function): model for family, function, model in catalog.models()}
    having = Counter(function for family in catalog.families.values() for function in family.functions)
    found = []
    for family in catalog.families.values():
        for function in family.functions:
            fields: dict[str, Any] = {"function": (Literal[function], ...)}
            if having[function] > 1:
                fields["family"] = (Literal[family.name], ...)
            if (family.name, function) in payloads:
                fields["payload"] = (payloads[family.name, function], ...)
            name = re.sub(r"\W+", "_", f"{family.name}_{function}")
            found.append((function, create_model(name, __base__=JobSubmission, **fields)))
    return found


def _any_payload(generic: dict[str, Any], function: str) -> dict[str, Any]:
    """Describe a function whose payload has no JSON schema."""
    return {**generic, "properties": {**generic["properties"], "function": {"const": function, "type": "string"}}}
