"""``arqd check``: try the configuration and what it names, without starting anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Json, cell, print_json, redis_url, settings

if TYPE_CHECKING:
    from daemon.cli.check_server import Finding
    from daemon.family import Family
    from daemon.servers import RedisUrl
    from daemon.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also look through all keys for what belongs to no job; reads everything.")
    ] = False,
    json: Json = False,
) -> None:
    """Try configuration, Redis and mail server.

    One line each, OK, WARN or FAIL, with what to do; the status is 1 when something fails.
    """
    findings = asyncio.run(_all(deep))
    if json:
        print_json([finding._asdict() for finding in findings])
    else:
        for level, what, text in findings:
            print(f"{level:<4}  {what:<14}  {cell(text)}")
    if any(finding.level == "FAIL" for finding in findings):
        raise typer.Exit(1)


async def _all(deep: bool) -> list[Finding]:
    from daemon.cli.check_server import Finding, server
    from daemon.errors import ConfigurationError
    from daemon.registry import installed_families, left_out, load_families, told_left_out

    try:
        config = settings()
        for name in config.unset:
            config.section(name)
        families = load_families(
            config.families, installed_families(config.families), config.overrides(), accept_pickle=True
        )
    except ConfigurationError as error:
        return [Finding("FAIL", "configuration", str(error))]
    names = ", ".join(f"{family.name} ({', '.join(family.functions)})" for family in families)
    findings = [Finding("OK", "configuration", f"families {names}")]
    if missing := left_out(config.families):
        findings.append(Finding("OK", "families", told_left_out(missing)))
    findings += [Finding("WARN", family.name, line) for family in families for line in family.warnings]
    findings += [finding async for finding in server(redis_url(config), families)]
    if deep and not any(finding.level == "FAIL" and finding.what == "redis" for finding in findings):
        findings += [await _leaks(redis_url(config), family) for family in families]
    findings += [finding async for finding in _services(config)]
    findings += _alerted(config)
    if config.alerts.channels:
        findings.append(_channels(config))
    return findings


def _alerted(config: Settings) -> list[Finding]:
    """Tell which families the alerts' settings name that are not here: nothing would be told of them."""
    from daemon.alerts.settings import Threshold
    from daemon.cli.check_server import Finding

    named: dict[str, list[str]] = {
        name: list(value.own) for name, value in vars(config.alerts).items() if isinstance(value, Threshold)
    }
    named["objectives"] = [objective.family for objective in config.alerts.objectives]
    return [
        Finding("WARN", "alerts", f"ARQD_ALERTS__{name.upper()}: there is no family {family!r} here")
        for name, families in named.items()
        for family in families
        if family not in config.families
    ]


def _channels(config: Settings) -> Finding:
    """Tell whether messages of alerts could be sent; none is."""
    from daemon.alerts.channels import open_channels
    from daemon.cli.check_server import Finding
    from daemon.errors import ConfigurationError

    try:
        open_channels(config.alerts.channels)
    except ConfigurationError as error:
        return Finding("FAIL", "alerts", str(error))
    names = ", ".join(config.alerts.channels)
    return Finding("OK", "alerts", f"channels {names}; arqd alerts test sends a message to each")


async def _leaks(url: RedisUrl, family: Family) -> Finding:
    """Count what belongs to no job, or lacks what it needs."""
    from daemon.cli.check_server import Finding
    from daemon.connecting.connections import connect, translated
    from daemon.errors import ArqdError
    from daemon.inspecting.consistency import find_leaks

    client = connect(url)
    try:
        with translated():
            found = await find_leaks(client, family)
    except ArqdError as error:
        return Finding("FAIL", family.name, f"keys not looked through: {error}")
    finally:
        await client.aclose()
    if not found.leaks:
        return Finding("OK", family.name, f"{found.jobs} jobs, and every key belongs to one")
    kinds = [f"{kind}: {len(names)} ({', '.join(names[:3])})" for kind, names in found.by_kind().items()]
    return Finding("FAIL", family.name, f"{len(found.leaks)} leaks in {found.jobs} jobs: {'; '.join(kinds)}")


async def _services(config: Settings) -> AsyncIterator[Finding]:
    """Try what the families' packages name in their table ``CHECKS``."""
    from daemon.cli.check_server import Finding
    from daemon.dotted import resolve
    from daemon.settings import package_tables

    for name, target in package_tables("CHECKS", config.families).items():
        try:
            reached = await resolve(target)(config)
        except Exception as error:
            yield Finding("FAIL", name, str(error) or type(error).__name__)
        else:
            yield Finding("OK", name, reached or "not set up")
