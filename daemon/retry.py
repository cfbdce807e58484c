"""When a job is tried again: backoff and the decision after a failed try. Pure: no clock, no Redis."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.errors import ConfigurationError, PermanentError, TooLarge


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the nth retry, in seconds.

    Attributes:
        base: wait before the first retry.
        exponential: double it for each further retry, else wait ``base`` every time.
        maximum: upper bound of the wait; None for no bound.
        jitter: spread each wait evenly over ``wait * (1 ± jitter)``, 0 to 1.
    """

    base: float = 2.0
    exponential: bool = True
    maximum: float | None = 3600.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.base < 0 or (self.maximum is not None and self.maximum < 0) or not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"{self!r}: base and maximum are 0 or more seconds, jitter is 0 to 1")

    def wait(self, retry: int, rand: Callable[[], float] = random.random) -> float:
        """Give the wait in seconds before retry number ``retry`` (1 for the first)."""
        wait = self.base * 2.0 ** min(retry - 1, 60) if self.exponential else self.base
        if self.jitter:
            wait *= 1 + self.jitter * (2 * rand() - 1)
        return wait if self.maximum is None else min(wait, self.maximum)

    def as_json(self) -> list[Any]:
        """Give the form that travels in a job's options."""
        return [self.base, int(self.exponential), self.maximum, self.jitter]

    @classmethod
    def from_json(cls, data: list[Any]) -> Backoff:
        """Rebuild what `as_json` gave."""
        base, exponential, maximum, jitter = data
        return cls(float(base), bool(exponential), maximum, float(jitter))


def Exponential(base: float = 2.0, maximum: float | None = 3600.0, jitter: float = 0.0) -> Backoff:
    """Wait ``base``, ``2·base``, ``4·base`` ... seconds, at most ``maximum``."""
    return Backoff(base, True, maximum, jitter)


def Fixed(base: float = 2.0, jitter: float = 0.0) -> Backoff:
    """Wait ``base`` seconds before every retry."""
    return Backoff(base, False, None, jitter)


# The payload and the result of another try would be the same.
ALWAYS_PERMANENT: tuple[type[BaseException], ...] = (PermanentError, TooLarge)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What a family does after a failed try.

    Attributes:
        max_tries: total tries.
        backoff: waits between them.
        permanent: exception types that are never tried again, beside `ALWAYS_PERMANENT`.
        retry_any: retry every exception; False keeps stock arq's rule (only ``Retry`` is tried again).
    """

    max_tries: int = 5
    backoff: Backoff = Backoff()
    permanent: tuple[type[BaseException], ...] = ()
    retry_any: bool = True

    def is_permanent(self, error: BaseException) -> bool:
        """Tell whether another try cannot help after this error."""
        return not self.retry_any or isinstance(error, ALWAYS_PERMANENT + self.permanent)
