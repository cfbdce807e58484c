"""How words are written in the index: a posting is 3 bytes of a word's hash and 2 of the job's place in its segment.

The hash's last byte is the field it stands in, so a word is looked up in one short text per segment; `lua/postings.lua`
has the whole layout. Two words may have one hash, so what is found is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from zlib import crc32

from daemon.job import JobInfo, JobState
from daemon.pages import INDEX
from daemon.search.words import BEGINNINGS, PAYLOAD, Question, lowered, name_of, words_of

#: Jobs in a segment; as lua/postings.lua.
DOCS = 1024


@lru_cache(maxsize=20_000)
def _term(text: str) -> tuple[int, bytes]:
    """The field of a term, and its key there."""
    value = crc32(text.encode("utf-8", "surrogateescape"))
    return value & 0xFF, (value >> 8).to_bytes(3)


def _word(word: str) -> str:
    return "w" + word


def _beginning(name: str, length: int) -> str:
    return "i" + name[:length]


def _set(state: JobState) -> str:
    return "s" + set_of(state)


def set_of(state: JobState) -> str:
    """Give the set jobs of a state stand in: ``queue`` or the index of ended ones."""
    return INDEX.get(state, "queue")


def asked(question: Question, state: JobState, also: Iterable[str]) -> list[str | bytes]:
    """Give the terms of a question as lua/search.lua takes them; the one that most jobs have comes last."""
    terms = [_word(word) for word in dict.fromkeys((*question.words, *also))]
    for beginning in question.beginnings:
        if lengths := [length for length in BEGINNINGS if length <= len(beginning)]:
            terms.append(_beginning(beginning, lengths[-1]))
    flat: list[str | bytes] = []
    for term in (*terms, _set(state)):
        bucket, key = _term(term)
        flat += (str(bucket), key)
    return flat


@dataclass(frozen=True, slots=True)
class Doc:
    """What of a job goes into the index; ``ended`` in ms, 0 for one that has not."""

    id: str
    terms: list[tuple[int, bytes]]
    ended: int


def doc_of(job_id: str, info: JobInfo, mode: str, ended: int) -> Doc:
    """Give what of a job is indexed."""
    terms = [_term(_word(word)) for word in words_of(info, mode == PAYLOAD)]
    name = lowered(name_of(info))
    terms += [_term(_beginning(name, length)) for length in BEGINNINGS if length <= len(name)]
    terms.append(_term(_set(info.state)))
    return Doc(job_id, list(dict.fromkeys(terms)), ended)


@dataclass(slots=True)
class Write:
    """What one call of lua/index.lua writes; see there."""

    segment: int
    first: int = 0
    docs: Sequence[Doc] = ()
    gone: Sequence[str] = ()
    position: bytes = b""
    drop: int | None = None
    keep: bool = False
    fields: dict[str, str | bytes] = field(default_factory=dict)

    def arguments(self) -> list[str | bytes | int]:
        """Give the arguments behind the version."""
        buckets: defaultdict[int, list[bytes]] = defaultdict(list)
        for slot, doc in enumerate(self.docs, self.first):
            place = slot.to_bytes(2)
            for bucket, key in doc.terms:
                buckets[bucket].append(key + place)
        ends = [doc.ended for doc in self.docs if doc.ended]
        drop = "" if self.drop is None else self.drop
        flat: list[str | bytes | int] = [self.position, self.segment, self.first, drop, int(self.keep)]
        flat += [min(ends, default="inf"), max(ends, default=0), len(self.fields)]
        for name, value in self.fields.items():
            flat += (name, value)
        flat += [len(self.gone), *map(_encoded, self.gone), len(self.docs), *(_encoded(doc.id) for doc in self.docs)]
        for bucket, postings in buckets.items():
            flat += (str(bucket), b"".join(postings))
        return flat


def _encoded(job_id: str) -> bytes:
    return job_id.encode("utf-8", "surrogateescape")
