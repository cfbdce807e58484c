"""What alerts can be told from outside: the section ``alerts`` of the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from daemon.alerts.objectives import Objective, objectives_of
from daemon.alerts.rules import ALERTS
from daemon.family import Seconds

_OFF = "none"
_NAME = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that must not be passed, and those of queues that have their own; None: no alert."""

    usual: int | None
    own: dict[str, int | None] = field(default_factory=dict)

    def of(self, family: str) -> int | None:
        """Give the number for a queue."""
        return self.own.get(family, self.usual)

    def __str__(self) -> str:
        own = "".join(f" {family}={_text(number)}" for family, number in self.own.items())
        return _text(self.usual) + own


def _text(number: int | None) -> str:
    return _OFF if number is None else str(number)


def threshold_of(text: Any) -> Any:
    """Read ``10000 email=1000 bulk=none``: the usual number, then queues with their own."""
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        return text
    usual, *others = text.replace(",", " ").split() or [""]
    own = {family: number for family, _, number in (other.partition("=") for other in others)}
    for number in (usual, *own.values()):
        if number != _OFF and not (number.isdecimal() and len(number) < 12):
            raise ValueError(f"{text!r}: write a number or none, then queues with their own, e.g. 10000 email=1000")
    return Threshold(_number(usual), {family: _number(number) for family, number in own.items()})


def _number(text: str) -> int | None:
    return None if text == _OFF else int(text)


Limit = Annotated[Threshold, BeforeValidator(threshold_of)]


def _limit(text: str, description: str) -> Any:
    return Field(threshold_of(text), description=description)


class AlertSettings(BaseModel):
    """Alerts (docs/alerts.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    enabled: bool = Field(True, description="whether the process that leads the scheduler looks for what is wrong")
    every: Seconds = Field(300, ge=1, le=86_400, description="how often it looks, seconds")
    repeat: Seconds = Field(4 * 3600, gt=0, description="what lasts is told again after so long, seconds or `4h`")
    calm: Seconds = Field(900, ge=0, description="it is over once its cause has been gone for so long, seconds")
    report: Seconds = Field(600, ge=0, description="how often it logs what each queue holds, seconds; 0: never")
    failed: Limit = _limit(
        "100", "dead letters in an hour, more is `failed_jobs`; `100 email=20` gives a queue its own"
    )
    error_rate: Limit = _limit("10", "percent of jobs ended in an hour that failed, more is `error_rate`")
    error_rate_of: int = Field(50, ge=1, description="so many must have ended in that hour")
    waiting: Limit = _limit("10000 email=1000", "jobs that wait, more is `backlog`")
    delayed: Limit = _limit("5000", "delayed jobs, more is `many_delayed`")
    active: Limit = _limit("1000", "active jobs, more is `many_active`")
    memory: int = Field(80, ge=1, le=100, description="percent of Redis's memory limit, more is `redis_memory`")
    objectives: Annotated[tuple[Objective, ...], BeforeValidator(objectives_of)] = Field(
        (), description="how soon jobs are to start, e.g. `email 95% 30s, email/acme 99% 2m`"
    )
    off: Annotated[tuple[str, ...], BeforeValidator(lambda value: _words(value))] = Field(
        (), description="alerts that are never raised, e.g. `dead_letter many_active`"
    )
    channels: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="where to tell, by names of yours: `ARQD_ALERTS__CHANNELS__OPS=slack://…`, an Apprise URL or "
        "`datadog://KEY@api.datadoghq.com`; the log always is told",
    )
    warning: Annotated[tuple[str, ...] | None, BeforeValidator(lambda value: _words(value))] = Field(
        None, description="channels that are told warnings, e.g. `ops`; default all"
    )
    critical: Annotated[tuple[str, ...] | None, BeforeValidator(lambda value: _words(value))] = Field(
        None, description="channels that are told what is critical, e.g. `ops pager`; default all"
    )
    link: str = Field("", description="address of the dashboard, for messages")

    @field_validator("off")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ALERTS:
                raise ValueError(f"there is no alert {name[:40]!r}: there are {', '.join(ALERTS)}")
        return names

    @field_validator("channels")
    @classmethod
    def _named(cls, channels: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, url in channels.items():
            if not _NAME.fullmatch(name.lower()):
                raise ValueError("a channel's name is of a-z, 0-9, - and _")
            if "://" not in url.get_secret_value():
                raise ValueError(f"channel {name}: write a URL such as slack://… or mailtos://…")
        return {name.lower(): url for name, url in channels.items()}

    @field_validator("warning", "critical")
    @classmethod
    def _chosen(cls, names: tuple[str, ...] | None, info: Any) -> tuple[str, ...] | None:
        known = info.data.get("channels", {})
        for name in names or ():
            if name not in known:
                raise ValueError(f"there is no channel {name[:40]!r}: set ARQD_ALERTS__CHANNELS__{name.upper()[:40]}")
        return names


def _words(value: Any) -> Any:
    return tuple(value.lower().replace(",", " ").split()) if isinstance(value, str) else value
