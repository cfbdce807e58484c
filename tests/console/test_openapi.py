"""The OpenAPI document against the console: whatever fits it, and whatever does not, gets a documented answer."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from daemon.archive.archiver import Archiver
from daemon.archive.database import Archive
from daemon.console.api.openapi import document
from daemon.console.app import create_app
from daemon.console.roles import Role
from daemon.console.services import Services
from daemon.console.settings import ConsoleSettings
from daemon.family import load_family
from daemon.process.serving import serve
from handlers.email.worker import WorkerSettings
from handlers.integrations.database import Database
from tests.asking import FUNCTIONS
from tests.engine import make_family
from tests.servers import RedisServer

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
#: For each endpoint, whether the request fits the document or not, and whoever asks.
EXAMPLES = 3


@dataclass(slots=True)
class Served:
    """A console on a port, in a process of its own.

    As a thread it would share with Hypothesis what Python 3.11 keeps while it makes an AST
    (https://github.com/python/cpython/issues/106905).
    """

    url: str
    token: str
    document: dict[str, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("console")
    server = RedisServer(folder).start()
    here, there = multiprocessing.Pipe()
    database = f"sqlite:///{shutil.copyfile(sqlite_template, folder / 'arqd.db')}"
    process = multiprocessing.get_context("spawn").Process(target=serve_console, args=(server.url, database, there))
    process.start()
    try:
        assert here.poll(120), "the console does not start"
        yield here.recv()
    finally:
        process.terminate()
        process.join(60)
        server.kill()


def serve_console(redis_url: str, database_url: str, told: Connection) -> None:
    """Serve a console until the process is ended; a `Served` is sent when it listens."""

    async def run() -> None:
        families = [make_family("t", *FUNCTIONS), load_family(WorkerSettings)]
        archive = Archive(Database(database_url))
        async with Services.open(
            redis_url,
            ConsoleSettings(submit_rate=0),
            families,
            archiver=lambda redis: Archiver(redis, [family.name for family in families], archive),
        ) as services:
            app = create_app(services)
            _, token = await services.tokens.add("schemathesis", Role.ADMIN)
            # A stream has no end: that it begins is enough here.
            services.live.close()

            def listening(url: str) -> None:
                told.send(Served(url, token, document(app, services.catalog)))

            await serve(app, name="the console", host="127.0.0.1", port=0, on_listening=listening)

    asyncio.run(run())


@pytest.mark.timeout(480)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
@pytest.mark.parametrize("known", [True, False], ids=["admin", "nobody"])
def test_every_answer_is_documented(served: Served, mode: GenerationMode, known: bool) -> None:
    schema = schemathesis.openapi.from_dict(served.document)
    headers = {"authorization": f"Bearer {served.token}"} if known else {}
    asked, session = [], requests.Session()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.headers = {**(case.headers or {}), **headers}
            if not known:
                case.headers.pop("authorization", None)
                case.headers.pop("Authorization", None)
                case.cookies = {}
            response = case.call(base_url=served.url, session=session)
            case.validate_response(response, checks=CHECKS)
            if not known and not case.path.endswith("/health"):
                # A line end is in no path there is, whoever asks.
                unknown = response.status_code == 404 and response.json()["detail"] == "Not Found"
                assert unknown or response.status_code in (401, 422), response.text

        ask()
        asked.append(operation.label)
    assert len(asked) == sum(len(at) for at in served.document["paths"].values())
