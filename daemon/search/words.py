"""The words of a job, and those of a question; pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from daemon.errors import InvalidJob
from daemon.job import JobInfo

#: What is indexed: nothing, or all but payloads, or all.
OFF, ERRORS, PAYLOAD = "off", "errors", "payload"

#: Letters and digits; what else stands in a text separates words.
_WORD = re.compile(r"[^\W_]+")
#: A longer word is found by its first characters.
LONGEST_WORD = 64
#: Most words indexed of a job, those of its payload last.
MOST_WORDS = 200
#: Most words and characters of a question.
MOST_ASKED, LONGEST_QUESTION = 8, 400
#: Beginnings of an id that are indexed; what else was asked of a beginning is compared.
BEGINNINGS = (4, 8, 10, 12, 16)


def words_in(text: str) -> Iterator[str]:
    """Give the words of a text, without regard to case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    for word in _WORD.findall(text.casefold()):
        yield word[:LONGEST_WORD]


def lowered(text: str) -> str:
    """Give a text in lower case as Lua has it: ASCII alone."""
    return text.encode("utf-8", "surrogateescape").lower().decode("utf-8", "surrogateescape")


def name_of(info: JobInfo) -> str:
    """Give a job's id without its family."""
    return info.id.removeprefix(info.family + ":")


def words_of(info: JobInfo, payload: bool) -> dict[str, None]:
    """Give the words a job is found by, in order: of its id, function, tags, error, and of its payload's values."""
    words: dict[str, None] = {}
    for text in _texts(info, payload):
        for word in words_in(text):
            words[word] = None
            if len(words) == MOST_WORDS:
                return words
    return words


def _texts(info: JobInfo, payload: bool) -> Iterator[str]:
    yield name_of(info)
    yield info.function or ""
    yield from info.tags
    if info.error:
        yield str(info.error.get("type", ""))
        yield str(info.error.get("message", ""))
    if payload:
        yield from _values(info.payload)


def _values(payload: Any) -> Iterator[str]:
    """Texts and numbers in plain JSON data, in order; names of fields are the same in every job and tell nothing."""
    left = [payload]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left.extend(reversed(value.values()))
        elif isinstance(value, list):
            left.extend(reversed(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield str(value)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: jobs with all these words whose id begins with all these (lower case)."""

    words: tuple[str, ...]
    beginnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, family: str) -> Question:
        """Read a question: words, and beginnings of ids with a star, ``timeout 0192ab*``.

        Raises:
            InvalidJob: when there is nothing to look for in it, or too much.
        """
        if len(text) > LONGEST_QUESTION:
            raise InvalidJob(f"a text to search for has at most {LONGEST_QUESTION} characters")
        words: dict[str, None] = {}
        beginnings: dict[str, None] = {}
        for part in text.split():
            named = part.removeprefix(f"{{{family}}}:").removeprefix(f"{family}:")
            if named.endswith("*"):
                if not (beginning := named.rstrip("*")):
                    raise InvalidJob("a star stands behind the beginning of an id: write 0192ab*")
                beginnings[lowered(beginning)] = None
            else:
                words.update(dict.fromkeys(words_in(named)))
        if not words and not beginnings:
            raise InvalidJob(f"there is no word to search for in {text[:40]!r}: give letters or digits")
        if len(words) + len(beginnings) > MOST_ASKED:
            raise InvalidJob(f"search for at most {MOST_ASKED} words at once")
        return cls(tuple(words), tuple(beginnings))

    def fits(self, info: JobInfo, payload: bool) -> bool:
        """Tell whether a job is meant."""
        name = lowered(name_of(info))
        return all(map(name.startswith, self.beginnings)) and words_of(info, payload).keys() >= set(self.words)
