"""A small endpoint that speaks the wire format of OpenAI's chat completions, and misbehaves as told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.handlers.receiver import Answer, Receiver, Request


@dataclass
class Says:
    """What a model answers.

    Attributes:
        usage: tokens of prompt and reply, as the last event tells; None: it does not.
        finish: None: the stream ends in the middle.
        error: comes behind the text in place of the end.
        escaped: its JSON is ASCII, so that a character beyond 16 bits is two escapes, or half of one is said.
    """

    text: str
    usage: tuple[int, int] | None = (12, 7)
    finish: str | None = "stop"
    error: bool = False
    escaped: bool = False


class ModelServer(Receiver):
    """The endpoint: gives ``says`` in turn, the last one for ever, and ``answers`` before them."""

    def __init__(self, key: str, *says: Says) -> None:
        super().__init__()
        self._key = key
        self.says = list(says) or [Says("Hello")]

    def answer(self, request: Request) -> Answer:
        assert (request.method, request.path) == ("POST", "/v1/chat/completions")
        if request.headers.get("authorization") != f"Bearer {self._key}":
            return failure(401, "invalid_api_key")
        if self.answers:
            return self.answers.pop(0)
        body = request.json()
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        says = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return Answer(headers={"content-type": "text/event-stream"}, body=_stream(body["model"], says))


def _stream(model: str, says: Says) -> bytes:
    events: list[Any] = [_chunk(model, {"role": "assistant", "content": ""})]
    # In pieces of a few characters, as tokens come.
    events += [_chunk(model, {"content": says.text[at : at + 3]}) for at in range(0, len(says.text), 3)]
    if says.error:
        events.append({"error": {"message": "overloaded", "type": "server_error"}})
    elif says.finish is not None:
        events.append(_chunk(model, {}, says.finish))
        if says.usage is not None:
            prompt, completion = says.usage
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            events.append(_chunk(model) | {"choices": [], "usage": usage})
        events.append("[DONE]")
    lines = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=says.escaped) for each in events]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def _chunk(model: str, delta: dict[str, Any] | None = None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}


def failure(status: int, code: str, **headers: str) -> Answer:
    """An error as OpenAI tells one; its message quotes what was asked."""
    error = {"message": "you asked: secret words", "type": code, "param": None, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"error": error}).encode(), named)
