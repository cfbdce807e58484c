"""What the ai family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.integrations.texts import no_nul

__all__ = ["GenerateText", "GeneratedText", "Message", "piece"]


def _schema(value: Any) -> Any:
    """Accept a pydantic model in place of its JSON schema."""
    return value.model_json_schema() if isinstance(value, type) and issubclass(value, BaseModel) else value


class Message(PayloadModel):
    """One of a conversation's messages."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str = Field(min_length=1)


class GeneratedText(PayloadModel):
    """What a model has written.

    Attributes:
        text: its reply.
        data: the reply as JSON, where the job had an ``output_schema``: it fits it.
        finish_reason: ``stop``, or ``length`` where ``max_tokens`` cut it.
        prompt_tokens, completion_tokens: of all calls; as the endpoint counted, else as we estimate.
        cost: by ``ARQD_AI__PRICES``; none where the model has no price.
        repaired: the first reply did not fit the schema.
    """

    text: str
    data: Any = None
    model: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal | None = None
    repaired: bool = False


class GenerateText(Payload, family="ai", function="generate_text", returns=GeneratedText):
    """Have a language model write a text.

    Fields:
        prompt: what is asked; or ``messages``: a conversation.
        model: default ``ARQD_AI__MODEL``.
        max_tokens: longest reply; default ``ARQD_AI__MAX_TOKENS``.
        temperature: 0 to 2; default the model's.
        output_schema: JSON schema of the reply, or a pydantic model, which becomes one.
        group: whose budget pays, and who takes turns with others.
    """

    prompt: str | None = Field(None, min_length=1)
    messages: list[Message] | None = Field(None, min_length=1)
    model: Annotated[str, AfterValidator(no_nul), Field(min_length=1, max_length=200)] | None = None
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    output_schema: Annotated[dict[str, Any] | None, BeforeValidator(_schema)] = None
    group: Annotated[str, AfterValidator(no_nul), Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        return self

    def group_key(self) -> str | None:
        """Groups take turns."""
        return self.group

    def conversation(self) -> list[dict[str, str]]:
        """Give the messages as an endpoint takes them."""
        if self.messages is None:
            return [{"role": "user", "content": str(self.prompt)}]
        return [message.model_dump() for message in self.messages]


def piece(detail: str) -> str | None:
    """Read a piece of text from the ``detail`` of a ``progress`` event; None: the text begins (anew).

    Raises:
        ValueError: it is another event's.
    """
    found = json.loads(detail.partition(" ")[2])
    if found is not None and not isinstance(found, str):
        raise ValueError("this is no piece of a text")
    return found
