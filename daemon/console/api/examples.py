"""Examples of requests and answers in the OpenAPI document, of the family ``email``; the tests send each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FAMILY, FUNCTION = "email", "send_email"
_MAIL = {"to": "ada@example.com", "subject": "Welcome", "template": "welcome"}
_WEEK = {"to": "ada@example.com", "subject": "The week", "template": "notification"}
_LATER = "email:later"


@dataclass(frozen=True, slots=True)
class Example:
    """A request of an endpoint and its answer.

    Attributes:
        path: as in the document, with ``{id}``, for which ``at`` stands.
        body: None where there is none.
    """

    method: str
    path: str
    status: int
    answer: Any
    body: Any = None
    at: str = ""


def _submitted(name: str, state: str) -> dict[str, Any]:
    job_id = f"{FAMILY}:{name}"
    return {"id": job_id, "family": FAMILY, "state": state, "url": f"/api/v1/jobs/{job_id}", "created": True}


def _missing(title: str) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": title,
        "status": 422,
        "detail": "payload of send_email: to: Field required",
        "errors": [{"field": "payload.to", "message": "Field required"}],
    }


def _schedule(cron: str, state: str) -> dict[str, Any]:
    runs = [f"2030-02-{day:02}T07:00:00Z" for day in (4, 11, 18)] if state == "active" else []
    return {
        "name": "email:monday", "family": FAMILY, "function": FUNCTION, "payload": _WEEK, "cron": cron,
        "timezone": "Europe/Berlin", "state": state, "source": "runtime", "next_runs": runs, "last_run": None,
        "runs": 0, "missed": "run_once", "start": None, "end": None, "count": None, "options": {"priority": 1},
    }  # fmt: skip


_UNFIT = {"subject": "Hi", "template": "welcome"}

#: In an order in which they can be sent, to a family without workers; what it says of times is of the moment.
EXAMPLES = (
    Example(
        "POST", "/jobs", 202, _submitted("welcome-ada", "waiting"),
        {"function": FUNCTION, "payload": _MAIL, "job_id": "welcome-ada", "priority": "high"},
    ),
    Example("POST", "/jobs", 422, _missing("Unprocessable Entity"), {"function": FUNCTION, "payload": _UNFIT}),
    Example(
        "POST", "/jobs/batch", 202,
        {
            "results": [
                {"status": 202, "job": _submitted("later", "delayed"), "problem": None},
                {"status": 422, "job": None, "problem": _missing("Unprocessable Entity")},
            ]
        },
        {
            "jobs": [
                {"function": FUNCTION, "payload": _MAIL, "job_id": "later", "delay": "1h"},
                {"function": FUNCTION, "payload": _UNFIT},
            ]
        },
    ),
    Example(
        "GET", "/jobs/{id}/explain", 200,
        {
            "id": "email:welcome-ada", "family": FAMILY, "state": "waiting", "reason": "no_worker",
            "message": "There is no worker; `arqd run` starts one.", "until": None, "since": None, "position": None,
            "details": {"draining": 0},
        },
        at="email:welcome-ada",
    ),
    Example(
        "GET", "/jobs/{id}", 404,
        {
            "type": "about:blank", "title": "Not Found", "status": 404,
            "detail": "there is no job email:gone: it never existed, or its record has been removed",
        },
        at="email:gone",
    ),
    Example("POST", "/jobs/{id}/priority", 200, {"id": _LATER, "outcome": "changed"}, {"priority": "urgent"}, _LATER),
    Example("POST", "/jobs/{id}/promote", 200, {"id": _LATER, "outcome": "promoted"}, at=_LATER),
    Example("POST", "/jobs/{id}/abort", 200, {"id": _LATER, "outcome": "aborted"}, at=_LATER),
    Example("POST", "/queues/{family}/pause", 200, {FAMILY: True}, at=FAMILY),
    Example(
        "GET", "/queues/{family}/health", 200,
        {
            "family": FAMILY, "status": "degraded",
            "reasons": ["it is paused", "1 jobs wait and no worker is there"],
            "waiting": 1, "active": 0, "delayed": 0, "failed": 0, "workers": 0, "oldest_age_seconds": 0.5,
        },
        at=FAMILY,
    ),
    Example("POST", "/queues/{family}/resume", 200, {FAMILY: True}, at=FAMILY),
    Example(
        "PUT", "/queues/{family}/limits", 200,
        {
            "family": FAMILY,
            "limits": [
                {"scope": "group", "name": "acme", "source": "operator", "concurrency": 2, "rate": "30/60s"},
            ],
            "waits": {}, "running": {"": 0}, "weights": {"acme": 3}, "shared": [], "budget": None, "warnings": [],
        },
        {"group": "acme", "concurrency": 2, "rate": "30/m", "weight": 3}, FAMILY,
    ),
    Example(
        "POST", "/queues/{family}/clean", 200, {"dry_run": False, "families": {FAMILY: {"completed": 0}}, "away": []},
        {"state": "completed", "older_than": "1d", "count": 1000}, FAMILY,
    ),
    Example(
        "POST", "/queues/{family}/drain", 200, {"dry_run": True, "families": {FAMILY: {"drained": 1}}, "away": []},
        {"dry_run": True}, FAMILY,
    ),
    Example(
        "POST", "/queues/{family}/retry", 200, {"dry_run": True, "families": {FAMILY: {"retried": 0}}, "away": []},
        {"error": "TimeoutError", "since": "2h", "dry_run": True}, FAMILY,
    ),
    Example(
        "POST", "/dead/retry", 200,
        {"dry_run": True, "families": {FAMILY: {"retried": 0}}, "outcomes": {}, "redrives": [], "away": []},
        {"family": FAMILY, "error": "TimeoutError", "since": "2h", "dry_run": True},
    ),
    Example(
        "POST", "/dead/discard", 200,
        {
            "dry_run": False, "families": {}, "outcomes": {"email:welcome-ada": "not_failed"}, "redrives": [],
            "away": [],
        },
        {"ids": ["email:welcome-ada"]},
    ),
    Example(
        "POST", "/schedules", 201, _schedule("0 8 * * 1", "active"),
        {"name": "monday", "function": FUNCTION, "cron": "0 8 * * 1", "timezone": "Europe/Berlin", "payload": _WEEK},
    ),
    Example(
        "PATCH", "/schedules/{name}", 200, _schedule("0 9 * * 1", "paused"), {"cron": "0 9 * * 1", "paused": True},
        "email:monday",
    ),
    Example(
        "POST", "/alerts/silence", 201,
        {
            "id": "1f0c3a77", "starts": "2030-01-31T08:00:00Z", "ends": "2030-01-31T10:00:00Z", "alert": "no_worker",
            "subject": FAMILY, "by": "ada", "reason": "new machines",
        },
        {"alert": "no_worker", "subject": FAMILY, "for": "2h", "reason": "new machines"},
    ),
    Example(
        "POST", "/tokens", 201,
        {
            "info": {
                "name": "ci", "role": "operator", "created_at": "2030-01-31T08:00:00Z", "created_by": "ada",
                "expires_at": "2030-05-01T08:00:00Z",
            },
            "token": "arqd_ci.…",
        },
        {"name": "ci", "role": "operator", "expires": "90d"},
    ),
)  # fmt: skip


def add_examples(paths: dict[str, Any]) -> None:
    """Put the examples into the paths of a document, which stand below some ``/api/v1``."""
    for path, operations in paths.items():
        for each in EXAMPLES:
            operation = operations.get(each.method.lower())
            if not path.endswith(f"/api/v1{each.path}") or operation is None:
                continue
            operation["responses"][str(each.status)]["content"] = _told(operation["responses"][str(each.status)], each)
            if each.status < 300:
                for parameter in operation.get("parameters", ()):
                    if parameter["in"] == "path":
                        parameter["example"] = each.at
                if each.body is not None:
                    for media in operation["requestBody"]["content"].values():
                        media["example"] = each.body


def _told(response: dict[str, Any], each: Example) -> dict[str, Any]:
    return {kind: {**media, "example": each.answer} for kind, media in response["content"].items()}
