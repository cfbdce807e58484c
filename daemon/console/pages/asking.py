"""Pages that ask before something is done, and what a form is answered with afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from daemon.console.access import inside
from daemon.console.pages.frame import board_of, done, page
from daemon.console.problems import Problem, problem_of
from daemon.console.queues import QueueAway
from daemon.console.roles import Actor
from daemon.console.services import services_of
from daemon.errors import ArqdError


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a question, which is asked anew with another value of it."""

    name: str
    label: str
    value: str
    hint: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be chosen with the answer: value and label of each."""

    name: str
    label: str
    value: str
    options: tuple[tuple[str, str], ...]


async def ask(
    request: Request,
    actor: Actor,
    *,
    title: str,
    path: str,
    button: str,
    text: str = "",
    what: str = "",
    counts: Mapping[str, int] | None = None,
    fields: Iterable[Field] = (),
    kept: Mapping[str, str] | None = None,
    given: Iterable[tuple[str, str]] = (),
    choice: Choice | None = None,
    danger: bool = False,
    problem: str = "",
) -> Response:
    """Ask whether something is to be done.

    Args:
        path: where the answer goes, and where the question is asked again.
        counts: how many jobs it concerns, by what they are; ``what`` says what becomes of them.
        fields: of the question; ``kept`` goes with them.
        given: what the answer carries.
    """
    return await page(
        request,
        actor,
        "confirm.html",
        title=title,
        path=path,
        button=button,
        text=text,
        what=what,
        counts=None if problem else counts,
        total=sum((counts or {}).values()) if counts is not None else None,
        fields=list(fields),
        kept=dict(kept or {}),
        given=list(given),
        choice=choice,
        danger=danger,
        problem=problem,
        back=back_to(request, request.query_params.get("back", "")),
    )


def back_to(request: Request, wanted: str, otherwise: str = "") -> str:
    """Give where to go on after a form: where it was asked for, if that is here."""
    return inside(services_of(request), wanted, otherwise)


async def answered(request: Request, to: str, work: Awaitable[str]) -> Response:
    """Do something and go on to a page that tells what became of it, an error too."""
    try:
        text = await work
    except (Problem, ArqdError) as error:
        return done(request, to, problem_of(error).detail, kind="bad")
    finally:
        board_of(request).forget()
    return done(request, to, text)


def first(fields: Mapping[str, list[str]], name: str) -> str:
    """Give a field's first value without spaces around it, "" without one."""
    return fields.get(name, [""])[0].strip()


def plural(count: int, noun: str) -> str:
    """``1 job``, ``1,200 jobs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def told(text: str, away: Sequence[QueueAway]) -> str:
    """Give what was done, or would be, with the queues that were left out, if there are any."""
    if not away:
        return text
    names = ", ".join(each.family for each in away)
    left = f"of {names} nothing is known: they cannot be asked"
    return f"{text.removesuffix('.')}; {left}" if text else left
