"""What several servers answer to one question, where some of them may be away (`Inspector.ask`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from daemon.errors import RedisError, RedisUnavailable

T = TypeVar("T")

#: How long each of several servers may take unless told otherwise, seconds.
ANSWER_SECONDS = 3.0
#: One that did not answer in time gets no more than so long for the next `PATIENT_AGAIN` seconds, or until it answers:
#: pages ask again and again, and each of them would take the whole time.
IMPATIENT_SECONDS, PATIENT_AGAIN = 0.3, 10.0


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What servers answered to a question about their families.

    Attributes:
        told: an answer from each server that gave one.
        away: by name the families whose server did not, and why: nothing is known of them, which is no zero.
    """

    told: list[T]
    away: dict[str, RedisError]

    def some(self) -> list[T]:
        """Give what was told.

        Raises:
            RedisError: where no server answered, what the first one did instead.
        """
        if self.away and not self.told:
            raise next(iter(self.away.values()))
        return self.told


class Patience:
    """Waits for servers, a shorter time for those that did not answer just now."""

    def __init__(self) -> None:
        self._silent: dict[Hashable, tuple[float, RedisUnavailable]] = {}

    async def wait(self, place: Hashable, answer: Awaitable[T], within: float) -> T:
        """Wait for the answer of a server, at most so many seconds.

        Raises:
            RedisUnavailable: when it does not come in time.
        """
        since, told = self._silent.get(place, (float("-inf"), None))
        if time.monotonic() - since > PATIENT_AGAIN:
            told = None
        try:
            async with asyncio.timeout(within if told is None else min(IMPATIENT_SECONDS, within)):
                found = await answer
        except TimeoutError:
            if told is None:
                told = RedisUnavailable(f"Redis did not answer within {within:g} s")
                self._silent[place] = time.monotonic(), told
            raise told from None
        self._silent.pop(place, None)
        return found


async def gathered(asked: Sequence[tuple[Sequence[str], Awaitable[T]]]) -> Answers[T]:
    """Wait for the answers of several servers side by side, each with the names of its families.

    Raises:
        Exception: what is no error of Redis.
    """
    answers: Answers[T] = Answers([], {})
    found = await asyncio.gather(*(answer for _, answer in asked), return_exceptions=True)
    for (families, _), each in zip(asked, found, strict=True):
        if isinstance(each, RedisError):
            answers.away.update(dict.fromkeys(families, each))
        elif isinstance(each, BaseException):
            raise each
        else:
            answers.told.append(each)
    return answers
