"""``arqd webhooks``: the receivers, and the log of what was sent to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

import typer

from daemon.cli.common import Json, Limit, print_json, print_table, settings

if TYPE_CHECKING:
    from handlers.webhooks.endpoints import Endpoint, Endpoints

app = typer.Typer(help="Endpoints of webhooks, and their deliveries.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name of the endpoint.")]


@app.command("list")
def list_(
    disabled: Annotated[bool, typer.Option("--disabled", help="Only those that are given up.")] = False,
    json: Json = False,
) -> None:
    """Show the registered endpoints, and others that fail."""
    found = _with(lambda endpoints: endpoints.listed(disabled=disabled))
    if json:
        print_json([_told(endpoint) for endpoint in found])
        return
    rows = [
        (each.name, _host(each), each.secret_ref or "-", each.schedule, each.failures, each.disabled_why or "-")
        for each in found
    ]
    print_table(("endpoint", "host", "secret", "schedule", "failures", "disabled"), rows)


@app.command()
def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="Where it is: https://host/path.")],
    secret_ref: Annotated[str, typer.Option("--secret", help="Which of ARQD_WEBHOOKS__SECRETS signs.")],
    schedule: Annotated[str, typer.Option(help="How failures are tried again: family or standard.")] = "family",
) -> None:
    """Register an endpoint, or change one."""
    from pydantic import TypeAdapter, ValidationError

    from daemon.errors import ArqdError
    from handlers.webhooks.payloads import EndpointName, EndpointUrl, Schedule

    values: tuple[tuple[Any, str], ...] = ((EndpointName, name), (EndpointUrl, url), (Schedule, schedule))
    for kind, value in values:
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise ArqdError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
    if settings().webhooks.secrets_of(secret_ref) is None:  # type: ignore[attr-defined]
        raise ArqdError(f"there is no secret {secret_ref!r}: set ARQD_WEBHOOKS__SECRETS__{secret_ref.upper()}")
    _with(lambda endpoints: endpoints.register(name, url, secret_ref, cast(Schedule, schedule)))
    print(f"{name} is registered")


@app.command()
def enable(name: Name) -> None:
    """Let deliveries to an endpoint go on; those that failed meanwhile are dead letters."""
    _with(lambda endpoints: endpoints.enable(name))
    print(f"{name} is enabled; its dead letters: arqd dead groups webhooks")


@app.command()
def disable(
    name: Name, why: Annotated[str, typer.Option(help="Told in the error of each job.")] = "by an operator"
) -> None:
    """Send nothing more to an endpoint."""
    _with(lambda endpoints: endpoints.disable(name, why))
    print(f"{name} is disabled")


@app.command()
def remove(name: Name) -> None:
    """Forget an endpoint; the log of its deliveries stays."""
    _with(lambda endpoints: endpoints.remove(name))
    print(f"{name} is removed")


@app.command()
def deliveries(name: Name, limit: Limit = 20, json: Json = False) -> None:
    """Show the newest tries to deliver to an endpoint."""
    found = _with(lambda endpoints: endpoints.deliveries(name, limit))
    if json:
        print_json([asdict(attempt) for attempt in found])
        return
    rows = [
        (each.at.isoformat(timespec="seconds"), each.event, each.attempt, each.status or "-", f"{each.seconds:.3f}")
        for each in found
    ]
    print_table(("at", "event", "try", "status", "seconds"), rows)


def _with(call: Callable[[Endpoints], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        from handlers.integrations.database import Database
        from handlers.webhooks.endpoints import Endpoints

        config: Any = settings()
        database = await Database.open(config)
        try:
            return await call(Endpoints(database, config.webhooks.disable_after))
        finally:
            await database.close()

    return asyncio.run(run())


def _host(endpoint: Endpoint) -> str:
    return urlsplit(endpoint.url).hostname or "-"


def _told(endpoint: Endpoint) -> dict[str, Any]:
    # The path of a URL may be a secret.
    return {**asdict(endpoint), "url": None, "host": _host(endpoint)}
