"""The cause of a failure: type of the error, the place in the user's code that raised it, its message without data.

Two failures of one bug have the same cause although their messages name other orders, and keep it when lines above the
place are edited: a place is a module and a function, without a line number.
"""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from pydantic_core import ValidationError

from daemon import codec
from daemon.errors import JobFailed

#: How much of a message is looked at, and how much of what is left of it is kept, characters.
LOOKED_AT, KEPT = 1000, 200


class Cause(NamedTuple):
    """What failures of one bug have in common.

    Attributes:
        id: ten hexadecimal digits of the family and the rest.
        type: class name of the error.
        place: ``module:function`` of the innermost frame of the user's code; without one, the job's function.
        message: the error's text with ``#`` for numbers and ids, ``'…'`` for quoted text, ``<email>``, ``<url>``,
            ``<path>``.
    """

    id: str
    type: str
    place: str
    message: str

    def line(self, function: str) -> bytes:
        """Give it as ``lua/causes.lua`` takes it: the id, the job's function, then JSON, a line each."""
        described = codec.encode({"type": self.type, "place": self.place, "message": self.message})
        return f"{self.id}\n{function}\n".encode() + described


def cause_of(error: BaseException, family: str, function: str, module: str = "", *, hidden: bool = False) -> Cause:
    """Give the cause of a failure.

    Args:
        function: name of the job's function, "" where it could not be read.
        module: where that function is defined: its package is the user's code wherever it is installed.
        hidden: its text is encrypted, so it is no part of the cause, not even of the id.
    """
    kind, place, message = codec.plain(codec.type_of(error)), function, ""
    # An exception's attributes may do anything, and a failure without a cause would have no end.
    with contextlib.suppress(Exception):
        leaf = error
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
            message = f"{codec.type_of(leaf)}: "
        place = codec.plain(_place(leaf, module.partition(".")[0]) or function)
        text = "" if hidden else mask(_text(leaf), names=isinstance(leaf, _NAMING))
        message = (codec.plain(message) + text)[:KEPT]
    parts = "\0".join((family, kind, place, message))
    return Cause(blake2b(parts.encode(), digest_size=5).hexdigest(), kind, place, message)


# ---------------------------------------------------------------------- place

_LIBRARIES = tuple(f"{Path(sysconfig.get_path(name)).resolve()}{os.sep}" for name in ("stdlib", "platstdlib"))
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
#: Python 3.11 runs a comprehension in a frame of its own, later ones do not.
_INNER = re.compile(r"(?:\.<locals>)?\.<(?:list|dict|set)comp>|(?:\.<locals>)?\.<genexpr>")


def _place(error: BaseException, package: str) -> str:
    """Give module and function of the innermost frame of the user's code, "" without one."""
    place = ""
    for frame in _frames(error):
        if _is_users(frame, package):
            name = frame.f_globals.get("__name__") or Path(frame.f_code.co_filename).stem
            place = f"{name}:{_INNER.sub('', frame.f_code.co_qualname)}"
            # Where an endless recursion ends is chance, where it begins is not.
            if isinstance(error, RecursionError):
                break
    return place


def _frames(error: BaseException) -> Iterator[FrameType]:
    at = error.__traceback__
    while at is not None:
        yield at.tb_frame
        at = at.tb_next


def _is_users(frame: FrameType, package: str) -> bool:
    top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if top == package:
        return bool(package)
    file = frame.f_code.co_filename
    if top == "daemon" or file.startswith("<") or _INSTALLED.search(file):
        return False
    return not os.path.realpath(file).startswith(_LIBRARIES)


# ---------------------------------------------------------------------- message

#: Errors in whose messages quoted words are names from the code, which tell bugs apart.
_NAMING = (AttributeError, NameError, ImportError, TypeError)

_DATA = re.compile(
    r"""
      (?P<keep>\[Errno\ -?\d+\] | \b(?i:http(?:/\d(?:\.\d)?)?|status(?:[ _]code)?)[ :=]{1,3}[1-5]\d\d\b
        | '[1-5]\d\d\ [A-Z][A-Za-z -]+')
    | (?P<url>\b[a-z][a-z0-9+.-]*://[^\s'"<>\])},]+(?<![.:;!?]))
    | (?P<email>[\w.+%-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<quoted>(?<!\w)[bBrRuU]{0,2}(?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.|'(?=\w))*'(?!\w) ) | `[^`]*` | “[^”]*”
        | ‘[^’]*’ | «[^»]*»)
    | (?P<path>(?<![\w.<>/])(?:~|\.{1,2})?(?:/[\w.@+~%=-]+){2,}/? | \b[A-Za-z]:\\[^\s'"]+)
    | (?P<address>(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:]))
    | (?P<token>(?<![\w-])[\w-]*\d[\w-]*(?:[.,:][\w-]*\d[\w-]*)*%?)
    """,
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(r"['\"`][A-Za-z_][\w.]*(?:\(\))?['\"`]")
#: What may be the beginning of a random id is not kept.
_WORDS = re.compile(r"(?:(?![a-fA-F]+[_.,:-])[^\W\d_]+[_.,:-]+)+")
_OPEN = re.compile(r"(?<![\w…])['\"](?!…).*")
_MANY = re.compile(r"#(?:[,+/]? ?#)+|'…'(?:, ?'…')+")


def mask(text: str, *, names: bool = False) -> str:
    """Give a message without its data: one line, the same for every job that failed in the same way.

    Args:
        names: leave quoted identifiers as they are.
    """

    def masked(found: re.Match[str]) -> str:
        kind, text = found.lastgroup, found.group()
        if kind == "quoted":
            return text if names and _NAME.fullmatch(text) else "'…'"
        if kind == "token":
            return _masked_token(text)
        return {"keep": text, "address": "#"}.get(str(kind), f"<{kind}>")

    line = _DATA.sub(masked, " ".join(codec.plain(text[:LOOKED_AT]).split()))
    if len(text) > LOOKED_AT:
        line = _OPEN.sub("'…'", line)
    return _MANY.sub(lambda found: "#" if found.group()[0] == "#" else "'…'", line)


def _masked_token(token: str) -> str:
    """``order-17`` is ``order-#``; from the first part with a digit on nothing is kept, since random ids go on so."""
    kept = _WORDS.match(token.lstrip("-"))
    return (kept.group() if kept else "") + "#"


def _text(error: BaseException) -> str:
    """Give an error's text; of a validation only what is wrong where, since its text quotes what was given."""
    if isinstance(error, ValidationError):
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        told = (".".join(map(str, one["loc"])).removeprefix("a.0.") + ": " + one["type"] for one in wrong)
        # Of a job's payload the title is that of the record it stands in (`daemon.running.binding`), as its argument.
        title = "payload" if error.title == "Envelope" else error.title
        return f"{title}: " + "; ".join(dict.fromkeys(told))
    if isinstance(error, JobFailed):
        # A parent's failure by a child begins with the child's id (daemon/flows/courier.py), which may be any word.
        return error.message.partition(" ")[2] if error.type == "ChildFailed" else error.message
    return codec.text_of(error)
