"""Errors as problem details (RFC 9457): one shape for whatever goes wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from daemon.errors import (
    ArchiveUnavailable,
    ArqdError,
    InvalidJob,
    InvalidPayload,
    InvalidToken,
    JobNotFound,
    JobStateError,
    KeyMissing,
    QueueFull,
    RedisError,
    RedisRefused,
    RedisUnavailable,
    ScheduleConflict,
    ScheduleNotFound,
    TokenConflict,
    TokenNotFound,
    TooLarge,
)

logger = logging.getLogger("arqd.console")

MEDIA_TYPE = "application/problem+json"
#: When to try again where Redis cannot be used, seconds.
AGAIN_SECONDS = 5


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="where, with dots: `payload.to`; empty: the whole")
    message: str


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what is wrong, and what to do")
    errors: list[FieldProblem] | None = Field(None, description="each wrong field of a request")


class Problem(Exception):
    """An answer other than what was asked for.

    Args:
        errors: where in the request and what is wrong there.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.errors = status, detail, headers or {}, errors

    def details(self) -> dict[str, Any]:
        """Give its body."""
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            told["errors"] = [{"field": where, "message": what} for where, what in self.errors]
        return told

    def response(self) -> Response:
        """Give the answer."""
        return JSONResponse(self.details(), self.status, headers=self.headers, media_type=MEDIA_TYPE)


_STATUS: tuple[tuple[type[ArqdError], int], ...] = (
    (TooLarge, 413),
    (InvalidJob, 422),
    (InvalidToken, 422),
    (JobNotFound, 404),
    (ScheduleNotFound, 404),
    (TokenNotFound, 404),
    (JobStateError, 409),
    (ScheduleConflict, 409),
    (TokenConflict, 409),
    (KeyMissing, 409),
    (RedisError, 503),
    (ArchiveUnavailable, 503),
)


def problem_of(error: Exception) -> Problem:
    """Give the problem an exception stands for; one that nobody foresaw is logged and told without its text."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 400:
            # FastAPI's for a body that Python's reader gives up on.
            return Problem(422, "this cannot be read as JSON: send UTF-8, not compressed, and not too deep")
        return Problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, InvalidPayload):
        return Problem(422, str(error), errors=[(f"payload.{at}".rstrip("."), what) for at, what in error.errors])
    if isinstance(error, QueueFull):
        return Problem(429, str(error), headers={"retry-after": str(max(1, round(error.retry_after)))})
    if isinstance(error, RedisUnavailable | RedisRefused):
        # Its own text names the server's address.
        logger.warning("%s", error)
        told = (type(error).__doc__ or "").strip()
        return Problem(503, told, headers={"retry-after": str(AGAIN_SECONDS)})
    if isinstance(error, ArchiveUnavailable) and error.__cause__ is not None:
        # So does the database's own.
        logger.warning("%s", error)
        told = "the archive's database cannot be used: the console's log says why"
        return Problem(503, told, headers={"retry-after": str(AGAIN_SECONDS)})
    if isinstance(error, ArqdError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
        return Problem(status, str(error), headers={"retry-after": str(AGAIN_SECONDS)} if status == 503 else {})
    logger.error("a request failed", exc_info=error)
    return Problem(500, f"the console failed ({type(error).__name__}): its log says where")


def _invalid(error: RequestValidationError) -> Problem:
    """Name the wrong fields; what was given is not repeated, since it may be secret."""
    found: dict[str, list[str]] = {}
    for part in error.errors():
        where, what = _place(part, error.body), str(part["msg"]).removeprefix("Value error, ")
        found.setdefault(where, []).append(what if where else _whole(part, error.body) or what)
    # Several of a field are those of its types; that of which only a field is wrong is meant.
    wrong = [
        (where, ", or: ".join(dict.fromkeys(told)))
        for where, told in found.items()
        if not (where and any(other.startswith(f"{where}.") for other in found))
    ]
    return Problem(422, "; ".join(f"{where}: {what}".removeprefix(": ") for where, what in wrong[:10]), errors=wrong)


def _place(part: dict[str, Any], body: Any) -> str:
    """Tell where in a request something is wrong, without the names that types of a field have among themselves."""
    source, *steps = part["loc"]
    if source != "body":
        return ".".join(map(str, steps))
    names: list[str] = []
    for number, step in enumerate(() if part["type"] == "json_invalid" else steps, 1):
        held = body if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
        if step in held:
            body = body[step]
        elif number < len(steps) or part["type"] not in ("missing", "extra_forbidden"):
            continue
        names.append(str(step))
    return ".".join(names)


def _whole(part: dict[str, Any], body: Any) -> str | None:
    """Tell what is wrong with a body as a whole; None for what its model says itself."""
    if part["type"] == "json_invalid":
        return f"this is no JSON: {part['ctx']['error']}, at character {part['loc'][-1]}"
    if body is None and part["type"] == "missing":
        return "there is no body: send a JSON object"
    if isinstance(body, bytes):
        return "send JSON, with the header Content-Type: application/json"
    return None if isinstance(body, dict) else "send a JSON object"
