"""generate_text against an endpoint on loopback: streams, schemas, limits, balances, budgets; on both databases."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any, Self

import pytest
from pydantic import BaseModel, ValidationError

from daemon.errors import RetryAfter
from handlers.ai import budget
from handlers.ai.budget import OverBudget
from handlers.ai.endpoint import BalanceExhausted, Refused, Request, StreamBroken
from handlers.ai.payloads import GenerateText, piece
from handlers.ai.tasks import BrokenReply
from tests.handlers.ai.conftest import MakeWriter
from tests.handlers.ai.endpoint import Says, failure
from tests.handlers.receiver import Answer


class Ticket(BaseModel):
    seat: str
    price: int


GOOD, BAD = '{"seat": "A1", "price": 3}', '{"seat": "A1", "price": "three"}'


def told(progress: list[tuple[int, str | None]]) -> list[str]:
    """Put the texts together that were told as progress."""
    texts: list[str] = []
    for percent, note in progress:
        found = piece(f"{percent} {note}")
        if found is None:
            texts.append("")
        else:
            texts[-1] += found
    return texts


async def test_a_text_comes_in_pieces(writer: MakeWriter) -> None:
    text = 'Well, "hello"\nto you — ' + "and so on " * 60 + "\x00\\"
    writing = await writer(Says(text, usage=(20, 200)))
    run = await writing.run(temperature=0.5, max_tokens=400)
    done = run.value()
    assert (done.text, done.finish_reason, done.model, done.data) == (text, "stop", "tiny", None)
    assert (done.prompt_tokens, done.completion_tokens, done.cost) == (20, 200, Decimal("0.00082"))
    assert told(run.progress) == [text]
    assert len(run.progress) > 3
    sent = writing.server.requests[0].json()
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("tiny", 0.5, 400)
    assert sent["messages"] == [{"role": "user", "content": "Say hello"}]
    (used,) = await writing.usage()
    assert (used.prompt_tokens, used.completion_tokens, used.cost) == (20, 200, Decimal("0.00082"))
    assert used.ended_at is not None
    assert used.day == f"{used.at:%Y-%m-%d}"
    # Nothing of what was asked or answered.
    assert "hello" not in repr(used).lower()
    assert await writing.spent() == {"": Decimal("0.00082")}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("ab\ud83d\ude00!", "ab\U0001f600!"),
        ("a\ud83d\ude00\ud83d\ude00", "a\U0001f600\U0001f600"),
        ("ab\ud83dc", "ab\ufffdc"),
        ("ab\ud83d\ud83d\ude00", "ab\ufffd\U0001f600"),
        ("\ude00abc", "\ufffdabc"),
        ("ab\ud83d", "ab\ufffd"),
    ],
    ids=ascii,
)
async def test_halves_of_a_character_are_joined_and_one_alone_is_replaced(
    writer: MakeWriter, said: str, text: str
) -> None:
    """As of a server that streams UTF-16: an escape in one piece, the other in the next."""
    writing = await writer(Says(said, escaped=True))
    run = await writing.run()
    assert run.value().text == text
    assert told(run.progress) == [text]


async def test_half_a_character_in_the_data_of_a_reply_is_replaced(writer: MakeWriter) -> None:
    writing = await writer(Says('{"seat": "A\\ud83d", "price": 3}'))
    done = (await writing.run(output_schema=Ticket)).value()
    assert (done.data, done.repaired) == ({"seat": "A\ufffd", "price": 3}, False)


async def test_an_endpoint_that_does_not_count(writer: MakeWriter) -> None:
    writing = await writer(Says("Hello there", usage=None))
    done = (await writing.run()).value()
    assert done.completion_tokens == len("Hello there") // 3 + 1
    assert done.prompt_tokens > 0


async def test_messages_and_names_of_fields(writer: MakeWriter) -> None:
    writing = await writer(TOKENS_FIELD="max_completion_tokens", MODEL="tiny")
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    await writing.run(prompt=None, messages=messages, model=None)
    sent = writing.server.requests[0].json()
    assert (sent["messages"], sent["max_completion_tokens"], sent["model"]) == (messages, 1024, "tiny")
    assert "max_tokens" not in sent


@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```"])
async def test_a_reply_that_fits_its_schema(writer: MakeWriter, text: str) -> None:
    writing = await writer(Says(text))
    done = (await writing.run(output_schema=Ticket)).value()
    assert (Ticket.model_validate(done.data).price, done.repaired) == (3, False)
    asked = writing.server.requests[0].json()["response_format"]
    assert asked["json_schema"]["schema"]["required"] == ["seat", "price"]


@pytest.mark.parametrize("first", [BAD, "not JSON", '{"seat": "A1"}', ""])
async def test_a_reply_that_does_not_is_repaired_once(writer: MakeWriter, first: str) -> None:
    writing = await writer(Says(first), Says(GOOD))
    run = await writing.run(output_schema=Ticket)
    done = run.value()
    assert (done.data["price"], done.repaired) == (3, True)
    assert (done.prompt_tokens, done.completion_tokens) == (24, 14)
    assert told(run.progress) == [first, GOOD]
    again = writing.server.requests[1].json()["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    if first == BAD:
        assert 'price: "three" is not of type "integer"' in again[2]["content"]
    assert len(await writing.usage()) == 2


async def test_a_reply_that_stays_broken_is_permanent(writer: MakeWriter) -> None:
    writing = await writer(Says(BAD))
    run = await writing.run(output_schema=Ticket)
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert isinstance(run.error, BrokenReply)
    assert "three" not in str(run.error)
    assert len(writing.server.requests) == 2


@pytest.mark.parametrize("schema", [{"type": "objec"}, {"$ref": "http://127.0.0.1:9/x.json"}, {"pattern": "("}])
async def test_a_schema_that_is_none(writer: MakeWriter, schema: dict[str, Any]) -> None:
    writing = await writer()
    run = await writing.run(output_schema=schema)
    assert (run.ending, run.reason, writing.server.requests) == ("failed", "permanent", [])
    assert "output_schema is no JSON schema" in str(run.error)


async def test_an_endpoint_that_is_told_of_the_schema_in_words(writer: MakeWriter) -> None:
    writing = await writer(Says(GOOD), RESPONSE_FORMAT="none")
    await writing.run(output_schema=Ticket)
    sent = writing.server.requests[0].json()
    assert "response_format" not in sent
    assert '"seat"' in sent["messages"][0]["content"]


async def test_too_many_requests_and_an_empty_account(writer: MakeWriter) -> None:
    writing = await writer()
    writing.server.answers = [
        failure(429, "rate_limit_exceeded", retry_after="7"),
        failure(429, "rate_limit_exceeded"),
        failure(429, "insufficient_quota", retry_after="7"),
        failure(402, "payment_required"),
    ]
    for wait in (7, 20):
        run = await writing.run()
        assert (run.ending, run.retry_in) == ("told_to_wait", wait)
        assert isinstance(run.error, RetryAfter)
        assert run.error.scope == "function"
    for _ in range(2):
        run = await writing.run()
        assert (run.ending, run.reason) == ("failed", "permanent")
        assert isinstance(run.error, BalanceExhausted)
    # None of these was worked on: none costs anything.
    assert await writing.spent() == {"": 0}
    assert (await writing.run()).ending == "completed"


async def test_what_the_endpoint_refuses(writer: MakeWriter) -> None:
    writing = await writer()
    writing.server.answers = [failure(400, "context_length_exceeded"), failure(500, "server_error"), Answer(307)]
    run = await writing.run()
    assert isinstance(run.error, Refused)
    assert str(run.error).endswith("400: context_length_exceeded")
    assert (await writing.run()).ending == "retried"
    assert (await writing.run()).ending == "failed"
    assert await writing.spent() == {"": 0}


@pytest.mark.parametrize("says", [Says("Hel", finish=None), Says("Hel", error=True)], ids=["cut", "error"])
async def test_a_stream_that_breaks_is_tried_again_and_costs(writer: MakeWriter, says: Says) -> None:
    writing = await writer(says, Says("Hello"))
    run = await writing.run()
    assert (run.ending, run.retry_in) == ("retried", 5)
    assert isinstance(run.error, StreamBroken)
    assert (await writing.run(tries=1)).value().text == "Hello"
    one, two = await writing.usage()
    assert one.cost > 0
    assert await writing.spent() == {"": one.cost + two.cost}


@pytest.mark.parametrize(
    "body", [b"data: " + b"x" * 2_000_000, b"data: x\n" * 200_000, b"data: " + b"[" * 100_000 + b"\n\n", b"data: 7\n\n"]
)
async def test_a_stream_that_is_none(writer: MakeWriter, body: bytes) -> None:
    writing = await writer()
    writing.server.answers = [Answer(body=body)]
    run = await writing.run()
    assert isinstance(run.error, StreamBroken), run.error
    assert "something that is no stream" in str(run.error)
    assert (await writing.usage())[0].ended_at is not None


@pytest.mark.parametrize(
    "body", [b"data: [DONE]\n\n", b"\n\n", b": busy\n\n", b'data: {"choices": []}\n\ndata: [DONE]\n\n']
)
async def test_a_stream_without_a_reply(writer: MakeWriter, body: bytes) -> None:
    writing = await writer()
    writing.server.answers = [Answer(body=body)]
    run = await writing.run()
    assert isinstance(run.error, StreamBroken), run.error
    # One that says no reason has answered all the same.
    writing.server.answers = [Answer(body=b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n')]
    assert (await writing.run()).value().text == "Hi"


async def test_no_answer(writer: MakeWriter) -> None:
    writing = await writer()
    writing.server.answers = [Answer(cut="before")]
    assert (await writing.run()).ending == "retried"
    # It may have been worked on.
    assert (await writing.usage())[0].ended_at is None
    assert (await writing.spent())[""] > 0


async def test_the_content_filter(writer: MakeWriter) -> None:
    writing = await writer(Says("Hel", finish="content_filter"))
    run = await writing.run()
    assert (run.ending, run.reason) == ("failed", "permanent")


class Noon(datetime):
    """A clock at which it is always noon of one day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 3, 1, 12, tzinfo=tz)


async def test_a_budget_is_a_groups_and_a_days(writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "datetime", Noon)
    # A call may cost 0.0004 for its reply and a little for its prompt.
    limits = {"BUDGET": "0.0005", "BUDGETS": json.dumps({"rich": 5})}
    writing = await writer(Says("Hello", usage=(10, 60)), **limits)
    more = {"max_tokens": 100, "group": "acme"}
    assert (await writing.run(**more)).ending == "completed"
    run = await writing.run(**more)
    assert run.ending == "told_to_wait"
    assert run.retry_in == 12 * 3600 + 1
    for group in ("rich", "other", None):
        assert (await writing.run(max_tokens=100, group=group)).ending == "completed"
    assert set(await writing.spent()) == {"acme", "rich", "other", ""}
    # What does not fit into a whole day never will.
    run = await writing.run(max_tokens=1000, group="new")
    assert isinstance(run.error, OverBudget)
    assert run.ending == "failed"
    # Nobody can say what it costs.
    run = await writing.run(model="large", group="new")
    assert "ARQD_AI__PRICES" in str(run.error)


async def test_a_job_over_budget_may_fail(writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "datetime", Noon)
    writing = await writer(Says("Hello", usage=(10, 60)), BUDGET="0.0005", OVER_BUDGET="fail")
    runs = await asyncio.gather(*(writing.run(max_tokens=100, group="acme") for _ in range(4)))
    # However many ask at once, what is under way counts.
    endings = sorted(run.ending for run in runs)
    assert endings == ["completed", "failed", "failed", "failed"]
    assert len(writing.server.requests) == 1
    assert (await writing.spent())["acme"] <= Decimal("0.0005")


async def test_no_model(writer: MakeWriter) -> None:
    run = await (await writer()).run(model=None)
    assert "ARQD_AI__MODEL" in str(run.error)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        {"prompt": ""},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "b"}]},
        {"prompt": "a", "temperature": 3},
        {"prompt": "a", "output_schema": "Ticket"},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "more": 1},
    ],
)
def test_bad_payloads(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerateText.model_validate(fields)


def test_a_pydantic_model_travels_as_its_schema() -> None:
    job = GenerateText.model_validate({"prompt": "a", "outputSchema": Ticket})
    assert job.output_schema == Ticket.model_json_schema()
    assert GenerateText.model_validate_json(job.model_dump_json()) == job


def test_what_a_call_may_use_is_not_thought_too_small() -> None:
    """A letter of many languages is a token of its own, and a budget must hold for them, too."""
    asked = [{"role": "user", "content": "写一首关于茶的诗" * 40}]
    assert Request("tiny", asked, 100, None, None).estimate.prompt >= 8 * 40
