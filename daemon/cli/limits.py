"""``arqd limits``: show and change the limits of a family while it runs."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, audited, cell, inspector, print_json, print_table, refuse_unknown_family, settings

if TYPE_CHECKING:
    from daemon.limits.budget import Budget
    from daemon.limits.queue_limits import FamilyLimits
    from daemon.limits.shared import SharedLimitInfo


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(limits)


def limits(
    family: Annotated[str | None, typer.Argument(help="The family.", metavar="[FAMILY]", show_default=False)] = None,
    rate: Annotated[str | None, typer.Option(help="Starts per period: 50/s, 30/m; none: any number.")] = None,
    global_: Annotated[
        str | None, typer.Option("--global", help="Jobs of the queue that run at the same time; none: any number.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Of this group; kind:*: of each whose name begins with kind:; *: of each without one of its own."
        ),
    ] = None,
    function: Annotated[str | None, typer.Option(help="Of this function; *: of each without one of its own.")] = None,
    shared: Annotated[
        str | None, typer.Option(help="Of the limit of this name, which families share; give no family.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(help="Jobs of the group, function or shared limit that run at the same time; none: any number."),
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(help="What the queue may take in Redis: 500MB, 2GiB; none: any number of bytes.")
    ] = None,
    weight: Annotated[int | None, typer.Option(min=1, max=64, help="Turns of the group where others have one.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Take back what was set here; end a wait.")] = False,
    json: Json = False,
) -> None:
    """Show the limits of a family, over all processes, or change them while it runs."""
    changing = [rate, global_, concurrency, weight, max_bytes]
    if (family is None) == (shared is None):
        raise typer.BadParameter("give a family, or --shared with the name of a limit that families share")
    if group is not None and function is not None:
        raise typer.BadParameter("give --group or --function, not both")
    if reset and any(value is not None for value in changing):
        raise typer.BadParameter("--reset takes back all that was set: give it alone", param_hint="--reset")
    if shared is not None:
        if any(value is not None for value in (global_, group, function, weight, max_bytes)):
            raise typer.BadParameter("it takes --rate, --concurrency and --reset", param_hint="--shared")
        _tell_shared(asyncio.run(_shared(shared, rate, concurrency, reset)), json)
        return
    if group is None and function is None and concurrency is not None:
        raise typer.BadParameter(
            "give --group or --function too; --global is for the queue", param_hint="--concurrency"
        )
    if (group is not None or function is not None) and global_ is not None:
        raise typer.BadParameter("it is for the whole queue; --concurrency is for a group", param_hint="--global")
    if (group is not None or function is not None) and max_bytes is not None:
        raise typer.BadParameter("it is for the whole queue", param_hint="--max-bytes")
    if weight is not None and group in (None, "*"):
        raise typer.BadParameter("give the --group that has it", param_hint="--weight")
    if "" in (group, function) or not ((group or "") + (function or "")).isprintable():
        raise typer.BadParameter("a group or function has a name of plain text")
    found = asyncio.run(_limits(family or "", rate, global_ or concurrency, group, function, weight, max_bytes, reset))
    for warning in found.warnings:
        print(f"arqd: {cell(warning)}", file=sys.stderr)
    if json:
        print_json(found)
    else:
        _print(found)


async def _shared(name: str, rate: str | None, concurrency: str | None, reset: bool) -> SharedLimitInfo:
    from daemon.connecting.connections import translated
    from daemon.limits import queue_limits as limits

    async with inspector() as found:
        with translated():
            changes = {"rate": rate, "concurrency": concurrency}
            only_look = not reset and rate is None and concurrency is None
            async with audited(found.redis, "limit.shared", name, unless=only_look, reset=reset or None, **changes):
                return await limits.change_shared(found.redis, name, reset=reset, **changes)


def _tell_shared(found: SharedLimitInfo, json: bool) -> None:
    if json:
        print_json(found)
        return
    _print_shared([found])
    print_table(
        ("family", "running", "waits for permits"),
        [(family, running, family in found.waiting) for family, running in found.running.items()],
    )


def _print_shared(limits: list[SharedLimitInfo]) -> None:
    print_table(
        ("shared limit", "at the same time", "starts", "set by", "running", "started", "full until"),
        [
            (
                limit.name,
                limit.concurrency,
                limit.rate,
                limit.source,
                sum(limit.running.values()),
                limit.starts if limit.rate else None,
                limit.full_until,
            )
            for limit in limits
        ],
    )


async def _limits(
    family: str, rate: str | None, concurrency: str | None, group: str | None, function: str | None, weight: int | None,
    max_bytes: str | None, reset: bool,
) -> FamilyLimits:  # fmt: skip
    from daemon.connecting.connections import translated
    from daemon.keys import FamilyKeys
    from daemon.limits.queue_limits import change_limits

    keys = FamilyKeys.of(family)
    async with inspector(family) as found:
        with translated():
            # Every worker that ever ran has left its settings there.
            if not await found.redis.exists(keys.key("conf")):
                await refuse_unknown_family(found, family)
            changes: dict[str, Any] = {
                "rate": rate, "concurrency": concurrency, "group": group, "function": function, "weight": weight,
                "max_bytes": max_bytes,
            }  # fmt: skip
            only_look = not reset and all(value is None for value in (rate, concurrency, weight, max_bytes))
            async with audited(found.redis, "queue.limits", family, unless=only_look, reset=reset or None, **changes):
                functions = _functions(family) if function else ()
                return await change_limits(found.redis, keys, reset=reset, functions=functions, **changes)


def _functions(family: str) -> list[str]:
    """Give the functions of a family that is registered and installed here."""
    from daemon.registry import installed_families, load_families

    config = settings()
    names = [name for name in installed_families(config.families) if name == family]
    return [name for each in load_families(config.families, names, config.overrides()) for name in each.functions]


def _print_budget(budget: Budget) -> None:
    from daemon.limits.budget import size_text

    if budget.max_bytes is None:
        print(f"the queue may take any number of bytes in Redis ({budget.source})")
    else:
        taken = size_text(budget.bytes or 0)
        print(f"the queue may take {size_text(budget.max_bytes)} in Redis ({budget.source}), and takes {taken}")


def _print(found: FamilyLimits) -> None:
    """Print them for people: one line for each limit, then weights and waits."""
    lanes = {"queue": "", "group": "g:", "function": "f:"}
    print_table(
        ("limit of", "at the same time", "starts", "set by", "running"),
        [
            (
                limit.scope if limit.name is None else f"{limit.scope} {limit.name}",
                limit.concurrency,
                limit.rate,
                limit.source,
                None if limit.is_each else found.running.get(lanes[limit.scope] + (limit.name or ""), 0),
            )
            for limit in found.limits
        ],
    )
    if found.shared:
        _print_shared(found.shared)
    if found.budget is not None:
        _print_budget(found.budget)
    for group, weight in sorted(found.weights.items()):
        print(cell(f"group {group} has {weight} turns where others have one"))
    for lane, time in sorted(found.waits.items()):
        name = {"g": "group ", "f": "function "}.get(lane[:1], "the queue") + lane[2:]
        print(cell(f"{name} was told to wait until {time:%Y-%m-%dT%H:%M:%SZ}"))
