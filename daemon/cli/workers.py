"""Commands on worker processes: ``workers``, ``profile``."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Json, away_json, cell, inspector, plain, print_json, print_table, refuse_away, with_away

if TYPE_CHECKING:
    from daemon.errors import RedisError
    from daemon.inspecting.answers import Answers
    from daemon.inspector import Inspector, WorkerInfo

_COLUMNS = ("family", "session", "host", "pid", "slots", "running", "draining", "lease_seconds", "lag", "memory")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(workers)
    app.command()(profile)


def workers(
    family: Annotated[str | None, typer.Argument(help="Of this family.", metavar="[FAMILY]")] = None,
    stacks: Annotated[bool, typer.Option("--stacks", help="Also the stacks of jobs that blocked the loop.")] = False,
    json: Json = False,
) -> None:
    """List worker processes, and the last job of each that blocked its event loop."""
    answers = asyncio.run(_workers(family))
    found = [worker for part in answers.some() for worker in part]
    if json:
        print_json([*found, *away_json(answers.away)])
    else:
        _print_workers(found, answers.away, stacks)
    refuse_away(answers.away)


def _print_workers(found: list[WorkerInfo], away: Mapping[str, RedisError], stacks: bool) -> None:
    rows = [tuple(getattr(worker, name) for name in _COLUMNS) for worker in found]
    print_table(_COLUMNS, with_away(rows, away, len(_COLUMNS)))
    for worker in found:
        if (stalled := worker.stalled) is not None:
            at = cell(stalled["at"])
            who = f"{worker.host}:{worker.pid} {worker.family}"
            print(f"\n{who}: blocked at {at} by job {cell(stalled['job_id'])}, {cell(stalled['where'])}")
            for line in stalled["stack"].splitlines() if stacks else ():
                print("  " + plain(line))


async def _workers(family: str | None) -> Answers[list[WorkerInfo]]:
    from daemon.inspector import Inspector

    async with inspector(family) as found:
        return await (found if family is None else found.only([family])).ask(Inspector.workers)


def profile(
    worker: Annotated[str, typer.Argument(help="host:pid, pid or session, as arqd workers shows it.")],
    seconds: Annotated[float, typer.Option(min=0.1, max=120, help="How long to look.")] = 10,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; default arqd-PID.svg.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Collapsed stacks in place of a picture.")] = False,
) -> None:
    """See where a worker's time goes: its stacks are looked at a hundred times a second, and drawn as a flame graph."""
    from daemon.process.profiler import flame_graph

    found, stacks = asyncio.run(_profile(worker, seconds))
    if output is None:
        output = Path(f"arqd-{found.pid}.{'txt' if text else 'svg'}")
    title = f"arqd {found.host}:{found.pid}, {seconds:g} s, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    output.write_text(stacks + "\n" if text else flame_graph(stacks, title), "utf-8")
    print(output)
    print("arqd: open it in a browser; a box is a function, its width its share of the time", file=sys.stderr)


async def _profile(worker: str, seconds: float) -> tuple[WorkerInfo, str]:
    from daemon.connecting.connections import translated
    from daemon.errors import ArqdError
    from daemon.process.profiler import message

    async with inspector() as found:
        process = await _named(found, worker)
        keys = found.of(process.family)
        reply = keys.key("profile", secrets.token_hex(8))
        with translated():
            await found.redis.rpush(keys.key("ctl", process.session), message(seconds, reply))
            # The thread that reads it may be at a renewal, which has a limit of its own.
            for _ in range(round(seconds) + 15):
                answer = await found.redis.blpop([reply], 1)
                if answer is not None:
                    if answer[1] == b"busy":
                        raise ArqdError("this worker is being profiled already: try again when that has ended")
                    return process, answer[1].decode()
        raise ArqdError(f"{worker} did not answer: is it alive, and of this release?")


async def _named(found: Inspector, name: str) -> WorkerInfo:
    from daemon.errors import InvalidJob

    every = [worker for worker in await found.workers() if worker.lease_seconds > 0]
    fits = [worker for worker in every if name in (worker.session, f"{worker.host}:{worker.pid}", str(worker.pid))]
    if len({worker.session for worker in fits}) != 1:
        known = ", ".join(sorted({f"{worker.host}:{worker.pid}" for worker in every})) or "none"
        raise InvalidJob(f"{name!r} names {'several workers' if fits else 'no worker'}: there are {known}")
    return fits[0]
