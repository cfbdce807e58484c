"""Where all threads of this process are.

Not by their frame objects: reading those of a thread that runs on in between kills the process now and then (CPython
3.11, python/cpython#99110). The fault handler writes the stacks down while nothing else can run, and makes no objects.
"""

from __future__ import annotations

import faulthandler
import os
import re
import tempfile
from typing import IO, NamedTuple

_THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
#: What is not ASCII is written so.
_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


class Frame(NamedTuple):
    """A call; ``line`` is 0 where it is not known. A file or name of more than 500 characters is cut."""

    file: str
    line: int
    name: str


class Stacks:
    """Reads stacks, into a file of its own. Use: ``with Stacks() as stacks: stacks.read()``; one thread at a time."""

    def __init__(self) -> None:
        self._file = _memory_file()

    def __enter__(self) -> Stacks:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> dict[int, list[Frame]]:
        """Give the frames of threads by ``ident``, the innermost first: a hundred of each, of a hundred threads."""
        self._file.seek(0)
        self._file.truncate()
        faulthandler.dump_traceback(self._file)
        self._file.seek(0)
        return parse(self._file.read().decode("ascii", "replace"))


def parse(text: str) -> dict[int, list[Frame]]:
    """Read what the fault handler wrote."""
    found: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            frames = found.setdefault(int(thread[1], 16), [])
        elif frame := _FRAME.fullmatch(line):
            number = int(frame[2]) if frame[2].isdigit() else 0
            frames.append(Frame(_unescaped(frame[1]), number, _unescaped(frame[3])))
    return found


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1] or match[2] or match[3], 16)), text) if "\\" in text else text


def _memory_file() -> IO[bytes]:
    # There may be no folder to write to.
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("arqd-stacks"), "w+b")
    return tempfile.TemporaryFile()
