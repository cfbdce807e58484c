"""The scripts, one file each, loaded once; the shared files are put before every one that works on a family."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

SHARED = (
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
)
NAMES = (
    "enqueue",
    "tick",
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
)
#: Scripts that go on in another file.
CONTINUED = {"tick": "claim"}
#: Scripts on keys of their own, in a slot of their own: they stand alone.
ALONE = ("permits", "lead")
#: Scripts that enqueue, too: enqueue.lua stands before them as the function ``enqueue`` of its ARGV.
ENQUEUING = ("schedule", "relay")
#: Scripts of the search index: they change no job, so of the shared files they have these before them. (All that stands
#: before a script is one Lua function with it, which has room for 200 names.)
SEARCH_SHARED = ("prelude", "events", "postings")
SEARCHING = ("index", "reindex", "indexed", "sweep", "search")


_DEFINED = re.compile(r"^local (?P<names>\w+(?:, \w+)*) = (?P<values>[^\n]*)\n", re.MULTILINE)
_KEY, _NUMBER = re.compile(r"KEYS\[\d+\]"), re.compile(r"-?\d+|'\d+'")
#: Strings and comments, in which nothing is replaced, and names; not those of fields.
_TOKEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|(?<![\w.])[A-Za-z_]\w*\b(?! =[^=])")


@dataclass(frozen=True, slots=True)
class Script:
    """A script's full text and the SHA-1 that EVALSHA names it by."""

    name: str
    text: str
    sha: str


def _read(part: str) -> str:
    return (Path(__file__).parent / f"{part}.lua").read_text()


def put_in(text: str) -> str:
    """Put keys and numbers of the shared files where their names are used.

    As locals each costs a call much more than what it does with them: Lua 5.1 makes every function anew in every call,
    and looks for each local that one uses among all locals that any does. A function has room for 200 of them, too.
    """
    found: dict[str, str] = {}

    def defined(match: re.Match[str]) -> str:
        names, values = match["names"].split(", "), match["values"].split(", ")
        pairs = list(zip(names, values, strict=False))
        if len(names) != len(values) or not all(
            _KEY.fullmatch(value) or (name.isupper() and _NUMBER.fullmatch(value)) for name, value in pairs
        ):
            return match[0]
        found.update((name, f"({value})" if value.startswith("-") else value) for name, value in pairs)
        return "\n"

    text = _DEFINED.sub(defined, text)
    return _TOKEN.sub(lambda token: found.get(token[0], token[0]), text)


def _load(name: str) -> Script:
    shared = () if name in ALONE else SEARCH_SHARED if name in SEARCHING else SHARED
    text = "".join(map(_read, shared))
    if name in ENQUEUING:
        text += f"local function enqueue(ARGV)\n{_read('enqueue')}end\n"
    text += _read(name)
    if name in CONTINUED:
        text += _read(CONTINUED[name])
    if shared:
        text = put_in(text)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


SCRIPTS = {name: _load(name) for name in (*NAMES, *ALONE)}
