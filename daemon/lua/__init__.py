"""The scripts, one file each, loaded once; the shared files are put before every one that works on a family."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.lua.linked import linked, needed, with_names

SHARED = (
    "records",
    "prelude",
    "stock",
    "events",
    "room",
    "dedup",
    "flows",
    "causes",
    "kept",
    "bytes",
    "ends",
    "retention",
    "lanes",
    "parked",
    "single",
)
NAMES = (
    "enqueue",
    "tick",
    "take",
    "begin",
    "sync",
    "renew",
    "await",
    "abort",
    "redrive",
    "discard",
    "remove",
    "progress",
    "once",
    "log",
    "limits",
    "pause",
    "drain",
    "clean",
    "promote",
    "reprioritize",
    "page",
    "plan",
    "schedule",
    "relay",
    "flow",
    "outbox",
    "index",
    "reindex",
    "indexed",
    "sweep",
    "search",
    "reencrypt",
    "archived",
)
#: Scripts that go on in another file.
CONTINUED = {"tick": "claim"}
#: What stands before a script and all it uses, and is all that runs where a call brings one plain job.
FIRST = {"enqueue": "enqueue_one", "tick": "settle_one"}
#: Scripts of one job that need none of the shared files but their keys and numbers, and how records are read and
#: written.
SINGLE = ("take", "await")
#: Scripts on keys of their own, in a slot of their own: they stand alone.
ALONE = ("permits", "lead", "rest")
#: Scripts that enqueue, too: enqueue.lua stands before them as the function ``enqueue`` of its ARGV.
ENQUEUING = ("schedule", "relay")
#: Scripts of the search index: they change no job, so of the shared files they have these before them. (All that stands
#: before a script is one Lua function with it, which has room for 200 names.)
SEARCH_SHARED = ("records", "prelude", "events", "postings")
SEARCHING = ("index", "reindex", "indexed", "sweep", "search")


@dataclass(frozen=True, slots=True)
class Script:
    """A script's full text and the SHA-1 that EVALSHA names it by."""

    name: str
    text: str
    sha: str


def _read(part: str) -> str:
    return (Path(__file__).parent / f"{part}.lua").read_text()


def _load(name: str) -> Script:
    text = _text(name)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _text(name: str) -> str:
    text = _read(name)
    if name in ALONE:
        return text
    shared = "".join(map(_read, SEARCH_SHARED if name in SEARCHING else SHARED))
    if name in SINGLE:
        return with_names(shared, _with_single(text))
    if name in CONTINUED:
        text += _read(CONTINUED[name])
    if name in ENQUEUING:
        text = f"local function enqueue(ARGV)\n{_read('enqueue')}end\n{text}"
    return linked(shared, text, _with_single(_read(FIRST[name])) if name in FIRST else "")


def _with_single(text: str) -> str:
    return needed(_read("records") + _read("single"), text) + text


class _Scripts(Mapping[str, Script]):
    """Scripts by name, each put together when it is first asked for: a producer needs one or two of them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._loaded: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        try:
            return self._loaded[name]
        except KeyError:
            if name not in self._names:
                raise
        return self._loaded.setdefault(name, _load(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


SCRIPTS: Mapping[str, Script] = _Scripts((*NAMES, *ALONE))
