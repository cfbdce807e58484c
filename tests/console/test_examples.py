"""The examples of the OpenAPI document are true: each is sent, and answered as it says."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from daemon.console.api.examples import EXAMPLES
from daemon.console.api.openapi import document
from daemon.console.roles import Role
from daemon.family import load_family
from handlers.email.worker import WorkerSettings
from tests.asking import FUNCTIONS
from tests.console.support import API, console
from tests.engine import make_family

#: What is another one each time.
CHANGING = {"oldest_age_seconds", "token", "by", "created_by"}


def alike(value: Any, name: str = "") -> Any:
    """Give an answer without what is another one each time."""
    if isinstance(value, dict):
        silence = {"starts", "ends"} <= value.keys()
        return {key: alike(each, "token" if silence and key == "id" else key) for key, each in value.items()}
    if isinstance(value, list):
        return [alike(each, name) for each in value]
    if name in CHANGING and value is not None:
        return type(value).__name__
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return "a time"


async def test_each_example_is_answered_as_it_says(redis_url: str) -> None:
    async with console(redis_url, load_family(WorkerSettings)) as found:
        client, wrong = await found.of(Role.ADMIN), []
        for each in EXAMPLES:
            path = each.path.partition("{")[0] + each.at + each.path.partition("}")[2]
            answer = await client.request(each.method, API + path, json=each.body)
            told = answer.json()
            if path.startswith("/schedules"):
                # The payload with what is left out of the example.
                assert told["payload"].items() >= (each.answer["payload"] | {"to": told["payload"]["to"]}).items()
                told["payload"] = each.answer["payload"]
            if (answer.status_code, alike(told)) != (each.status, alike(each.answer)):
                wrong.append((each.method, path, answer.status_code, told))
        assert not wrong, "\n".join(map(str, wrong))


async def test_they_stand_in_the_document_where_their_family_is(redis_url: str) -> None:
    async with console(redis_url, load_family(WorkerSettings)) as found:
        paths = document(found.app, found.services.catalog)["paths"]
        for each in EXAMPLES:
            operation = paths[API + each.path][each.method.lower()]
            (media,) = operation["responses"][str(each.status)]["content"].values()
            assert media["example"] == each.answer, each.path
            if each.status < 300 and each.body is not None:
                assert operation["requestBody"]["content"]["application/json"]["example"] == each.body
            if each.status < 300 and each.at:
                assert [parameter["example"] for parameter in operation["parameters"] if parameter["in"] == "path"] == [
                    each.at
                ]
    async with console(redis_url, make_family("t", *FUNCTIONS)) as found:
        paths = document(found.app, found.services.catalog)["paths"]
        assert "example" not in paths[API + "/jobs"]["post"]["requestBody"]["content"]["application/json"]
