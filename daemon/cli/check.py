"""``arqd check``: try the configuration and what it names, without starting anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from daemon.cli.common import Json, cell, print_json, redis_url, settings

if TYPE_CHECKING:
    from daemon.settings import Settings

OLDEST = (6, 2)
TIMEOUT = 5.0


class Finding(NamedTuple):
    """A line of the report; ``level`` is OK, WARN or FAIL."""

    level: str
    what: str
    text: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(json: Json = False) -> None:
    """Try configuration, Redis and mail server.

    One line each, OK, WARN or FAIL; the status is 1 when something fails.
    """
    findings = asyncio.run(_all())
    if json:
        print_json([finding._asdict() for finding in findings])
    else:
        for level, what, text in findings:
            print(f"{level:<4}  {what:<14}  {cell(text)}")
    if any(finding.level == "FAIL" for finding in findings):
        raise typer.Exit(1)


async def _all() -> list[Finding]:
    from daemon.errors import ConfigurationError
    from daemon.registry import load_families

    try:
        config = settings()
        families = load_families(config.families, list(config.families), config.overrides())
    except ConfigurationError as error:
        return [Finding("FAIL", "configuration", str(error))]
    names = ", ".join(f"{family.name} ({', '.join(family.functions)})" for family in families)
    findings = [Finding("OK", "configuration", f"families {names}")]
    findings += [finding async for finding in _redis(redis_url(config))]
    findings += [finding async for finding in _services(config)]
    return findings


async def _redis(url: str) -> AsyncIterator[Finding]:
    from daemon.connections import connect, safe_url, translated
    from daemon.errors import ArqdError

    try:
        client = connect(url, timeout=TIMEOUT)
        try:
            with translated():
                info = await client.info()
        finally:
            await client.aclose()
    except ArqdError as error:
        yield Finding("FAIL", "redis", f"{safe_url(url)}: {error}")
        return
    version = info.get("redis_version", "0")
    served_by = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield Finding("FAIL", "redis", f"{safe_url(url)} is {served_by}: arqd needs 6.2 or later")
        return
    yield Finding("OK", "redis", f"{safe_url(url)}, {served_by}")
    yield _eviction(info)
    yield _persistence(info)


def _eviction(info: dict[str, Any]) -> Finding:
    policy, limit = info.get("maxmemory_policy", "unknown"), info.get("maxmemory", 0)
    if policy == "noeviction":
        return Finding("OK", "memory", "noeviction" + (f", limit {limit} bytes" if limit else ", no limit"))
    if limit:
        text = f"maxmemory-policy is {policy}: Redis throws jobs away when its memory is full; set it to noeviction"
        return Finding("FAIL", "memory", text)
    return Finding("WARN", "memory", f"maxmemory-policy is {policy}: set it to noeviction before setting maxmemory")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        broken = info.get("aof_last_write_status") == "err" or info.get("aof_last_bgrewrite_status") == "err"
        return Finding(
            "FAIL" if broken else "OK", "persistence", "append-only file" + (", but writing fails" if broken else "")
        )
    return Finding("WARN", "persistence", "no append-only file: a crash of Redis loses jobs; set appendonly yes")


async def _services(config: Settings) -> AsyncIterator[Finding]:
    """Try what the families' packages name in their table ``CHECKS``."""
    from daemon.registry import resolve
    from daemon.settings import package_tables

    for name, target in package_tables("CHECKS", config.families).items():
        try:
            reached = await resolve(target)(config)
        except Exception as error:
            yield Finding("FAIL", name, str(error) or type(error).__name__)
        else:
            yield Finding("OK", name, reached or "not set up")
