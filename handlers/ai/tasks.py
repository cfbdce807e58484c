"""``generate_text``: ask a model, tell its words as they come, and check the reply against a schema.

1. Set aside what the call may cost; over the budget it waits or fails.
2. Ask. Each piece of the reply is told as progress.
3. A reply that does not fit the schema is sent back once, with what is wrong. If that does not help, it is permanent.
4. Write down what was used.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from daemon.context import JobContext
from daemon.errors import PermanentError, RetryAfter
from handlers.ai.budget import Budget, Tokens
from handlers.ai.endpoint import BalanceExhausted, Endpoint, Refused, Reply, Request, StreamBroken, whole
from handlers.ai.payloads import GeneratedText, GenerateText
from handlers.ai.settings import AiSettings
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient, HttpForbidden, HttpStatus, HttpUnavailable

#: Pieces are told together when they come faster, seconds, and apart when they are longer, characters as JSON.
TELL_EVERY, LONGEST_PIECE = 0.1, 180
#: What is left of a try's time for what comes behind the call, seconds.
MARGIN = 5.0
#: What is wrong with a reply, at most so many things.
MOST_FAULTS = 10
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_NOTHING = Tokens(0, 0)


class BrokenReply(PermanentError):
    """The model's reply does not fit the schema, nor does the one after it was told."""


@dataclass(frozen=True, slots=True)
class AiService:
    """What the family opens at start and finds in its context as ``ai``."""

    settings: AiSettings
    database: Database
    http: HttpClient
    endpoint: Endpoint
    budget: Budget
    #: Makes what checks a reply: it gives what is wrong with one, and raises ValueError for a schema that is none.
    checker: Callable[[dict[str, Any]], Callable[[Any], list[str]]]


@dataclass(slots=True)
class _Teller:
    """Tells the pieces of a text as progress, a JSON string each; null says that a text begins."""

    ctx: JobContext
    most: int
    told: int = 0
    waiting: str = ""
    next_at: float = 0.0

    async def begin(self) -> None:
        """A text begins."""
        self.told, self.waiting = 0, ""
        await self.ctx.progress(0, "null")

    async def take(self, text: str) -> None:
        """Here is more of it."""
        self.waiting += text
        if time.monotonic() >= self.next_at or len(self.waiting) > LONGEST_PIECE:
            await self.flush()

    async def flush(self) -> None:
        """Tell what waits."""
        while self.waiting:
            size = min(len(self.waiting), LONGEST_PIECE)
            while len(note := json.dumps(self.waiting[:size], ensure_ascii=False)) > LONGEST_PIECE:
                size //= 2
            self.told, self.waiting = self.told + size, self.waiting[size:]
            # A token is some four characters.
            await self.ctx.progress(min(99, 25 * self.told / self.most), note)
        self.next_at = time.monotonic() + TELL_EVERY


@dataclass(slots=True)
class _Sum:
    """What all calls of a try came to."""

    used: Tokens = _NOTHING
    cost: Decimal | None = None
    calls: int = field(default=0)

    def add(self, used: Tokens, cost: Decimal | None) -> None:
        self.used = Tokens(self.used.prompt + used.prompt, self.used.completion + used.completion)
        self.cost = cost if self.cost is None else self.cost + (cost or 0)
        self.calls += 1


async def generate_text(ctx: JobContext, job: GenerateText) -> GeneratedText:
    """Have a model write a text. A job that runs again asks again, and pays again.

    Raises:
        RetryAfter: too many requests for now, or the group's budget is used up until tomorrow; no try is counted.
        StreamBroken, HttpError: tried again by the family's policy.
        BrokenReply, BalanceExhausted, Refused, OverBudget, PermanentError: permanent.
    """
    service: AiService = ctx["ai"]
    model = job.model or service.settings.model
    if model is None:
        raise PermanentError("no model is named: give one, or set ARQD_AI__MODEL")
    check = _checker(service, job)
    messages = job.conversation()
    if job.output_schema is not None and service.settings.response_format != "json_schema":
        schema = json.dumps(job.output_schema)
        messages.insert(
            0, {"role": "system", "content": f"Answer with JSON alone that fits this JSON schema: {schema}"}
        )
    most = job.max_tokens or service.settings.max_tokens
    request = Request(model, messages, most, job.temperature, job.output_schema)
    total, teller = _Sum(), _Teller(ctx, most)
    reply = await _ask(ctx, service, job, request, teller, total)
    if check is None:
        return _result(reply, model, total, None)
    data, faults = _checked(reply.text, check)
    if faults:
        said = "This does not fit the JSON schema: " + "; ".join(faults) + ". Answer with the corrected JSON alone."
        again = [*messages, {"role": "assistant", "content": reply.text or "-"}, {"role": "user", "content": said}]
        reply = await _ask(ctx, service, job, replace(request, messages=again), teller, total)
        data, faults = _checked(reply.text, check)
    if faults:
        raise BrokenReply(f"the reply of {model} does not fit the schema, asked twice ({len(faults)} faults)")
    return _result(reply, model, total, data)


async def _ask(
    ctx: JobContext, service: AiService, job: GenerateText, request: Request, teller: _Teller, total: _Sum
) -> Reply:
    """Make one call within the budget, and write down what it used."""
    booking = await service.budget.book(ctx.job_id, job.group or "", request.model, request.estimate)
    await teller.begin()
    try:
        reply = await service.endpoint.ask(request, teller.take, max(1.0, ctx.remaining - MARGIN))
    except StreamBroken as error:
        await service.budget.settle(booking, error.used)
        raise
    except HttpUnavailable as error:
        # What was sent and not answered may have been worked on: it stays booked.
        if not error.sent:
            await service.budget.settle(booking, _NOTHING)
        raise
    except (RetryAfter, HttpStatus, HttpForbidden, BalanceExhausted, Refused):
        await service.budget.settle(booking, _NOTHING)
        raise
    await teller.flush()
    total.add(reply.used, await service.budget.settle(booking, reply.used))
    if reply.finish_reason == "content_filter":
        raise Refused("the endpoint's content filter cut the reply")
    return reply


def _checker(service: AiService, job: GenerateText) -> Callable[[Any], list[str]] | None:
    if job.output_schema is None:
        return None
    try:
        return service.checker(job.output_schema)
    except ValueError as error:
        raise PermanentError(f"output_schema is no JSON schema: {error}") from None


def _checked(text: str, check: Callable[[Any], list[str]]) -> tuple[Any, list[str]]:
    """Read a reply, and give what is wrong with it."""
    fenced = _FENCED.fullmatch(text)
    try:
        # What a text says by escapes may be half a character, too.
        data = json.loads(whole(json.dumps(json.loads(fenced[1] if fenced else text), ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None, ["it is no JSON"]
    return data, check(data)[:MOST_FAULTS]


def _result(reply: Reply, model: str, total: _Sum, data: Any) -> GeneratedText:
    return GeneratedText(
        text=reply.text,
        data=data,
        model=model,
        finish_reason=reply.finish_reason,
        prompt_tokens=total.used.prompt,
        completion_tokens=total.used.completion,
        cost=total.cost,
        repaired=total.calls > 1,
    )
