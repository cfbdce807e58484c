"""What an operator can set about language models. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from daemon.family import Seconds
from handlers.integrations.http_settings import BaseUrl


def _exact(value: Any) -> Any:
    # A float of a JSON setting as it was written, not as it is stored.
    return str(value) if isinstance(value, float) else value


Money = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, max_digits=24, decimal_places=12)]


class Price(BaseModel):
    """What a model costs, per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input: Money
    output: Money


class AiSettings(BaseModel):
    """Language models: where they are, what they cost, what may be spent."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: BaseUrl = Field("https://api.openai.com/v1", description="address of an API like OpenAI's")
    key: SecretStr | None = Field(None, description="its key; none where it needs none")
    model: str | None = Field(None, description="model of jobs that name none")
    max_tokens: int = Field(1024, ge=1, le=1_000_000, description="longest reply of jobs that name no limit, tokens")
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls that limit: `max_tokens` or `max_completion_tokens`"
    )
    response_format: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema", description="how it is told of a schema: `json_schema`, `json_object`, or `none`: in words only"
    )
    silence: Seconds = Field(120, gt=0, le=3600, description="limit on its silence before and between tokens, seconds")
    rate_wait: Seconds = Field(20, ge=0, le=3600, description="wait after a 429 that names no time, seconds")
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description='cost of a million tokens, by model: `{"some-model": {"input": "0.15", "output": "0.60"}}`',
    )
    budget: Money | None = Field(None, description="what a group may cost in a day (UTC); none: any amount")
    budgets: dict[str, Money] = Field(default_factory=dict, description='the same for single groups: `{"acme": "5"}`')
    over_budget: Literal["wait", "fail"] = Field(
        "wait", description="a job over the budget: `wait` for the next day, or `fail`"
    )
