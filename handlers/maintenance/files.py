"""Removes old files below a folder, and nothing outside of it.

Every step is relative to an open folder (openat), follows no symbolic link, and stays on the mount it began on. So
whoever can write in the tree cannot lead it elsewhere: a folder that is exchanged for a link while it is walked is not
entered. Only regular files are removed; links, sockets, devices and folders stay.

A file that somebody has open for writing, or has locked, is in use however old it is: a service that had nothing to log
for weeks goes on with its file, and a lock that is removed is held by two.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Folders in folders that are entered; each has a file descriptor open meanwhile.
DEEPEST = 100


class OutsideError(ValueError):
    """The path is not below an allowed folder."""


@dataclass(slots=True)
class Removed:
    """How many files were removed, and the bytes that are free now: a file with another name keeps its own."""

    count: int = 0
    size: int = 0


class Sweep:
    """Removes files below one folder.

    Args:
        root: an allowed folder; where it is a link itself, what it leads to is meant.
        before: only what was written last before this Unix time.
        pattern: only names that fit.
        dry_run: only count.
    """

    def __init__(self, root: Path, before: float, pattern: str | None = None, *, dry_run: bool = False) -> None:
        self.removed = Removed()
        self._root = root.resolve()
        self._before, self._pattern, self._dry_run = before, pattern, dry_run
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End it at the next file; called from another thread."""
        self._stopped.set()

    def run(self, below: str | None = None) -> Removed:
        """Remove; what cannot be entered or removed (permissions, somebody else was quicker) is passed over.

        Args:
            below: only in this folder, absolute or relative to the root.

        Raises:
            OutsideError: when that is not below the root. OSError: when the root cannot be opened.
        """
        parts = self._parts(below)
        with _opened(str(self._root), None) as (root, mount):
            self._descend(root, mount, parts)
        return self.removed

    def _parts(self, below: str | None) -> list[str]:
        if below is None:
            return []
        path = Path(below)
        if path.is_absolute():
            # By what is written: nothing of it is looked up, so no link in it can lead here.
            try:
                path = path.relative_to(self._root)
            except ValueError:
                raise OutsideError(f"{below} is not below {self._root}") from None
        if ".." in path.parts:
            raise OutsideError(f"{below} is not below {self._root}")
        return list(path.parts)

    def _descend(self, folder: int, mount: object, parts: list[str]) -> None:
        if not parts:
            self._sweep(folder, mount, 0)
            return
        try:
            with _opened(parts[0], folder) as (inner, inner_mount):
                if inner_mount != mount:
                    raise OutsideError(f"{parts[0]} is another file system")
                self._descend(inner, mount, parts[1:])
        except NotADirectoryError:
            raise OutsideError(f"{parts[0]} is no folder, or a link") from None
        except FileNotFoundError:
            return

    def _sweep(self, folder: int, mount: object, depth: int) -> None:
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._stopped.is_set():
                    return
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    self._look(folder, entry.name)
        if depth == DEEPEST:
            return
        for name in folders:
            try:
                with _opened(name, folder) as (inner, inner_mount):
                    if inner_mount == mount:
                        self._sweep(inner, mount, depth + 1)
            except OSError:
                # It has become something else, or is gone, or may not be entered.
                continue

    def _look(self, folder: int, name: str) -> None:
        if self._pattern is not None and not fnmatch.fnmatchcase(name, self._pattern):
            return
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not self._is_old(found):
                return
            with _held(folder, name) as held:
                if held is not None and not (_unused(held) and self._is_old(os.fstat(held))):
                    return
                if not self._dry_run:
                    os.unlink(name, dir_fd=folder)
        except OSError:
            return
        self.removed.count += 1
        self.removed.size += found.st_size if found.st_nlink == 1 else 0

    def _is_old(self, found: os.stat_result) -> bool:
        return stat.S_ISREG(found.st_mode) and found.st_mtime < self._before


@contextmanager
def _held(folder: int, name: str) -> Iterator[int | None]:
    """Open a file for a moment; None where we may not: then it is as old as it looks."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except PermissionError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def _unused(file: int) -> bool:
    """See that nobody has a file open for writing or locked, and keep it so until it is closed; True where the file
    system does not tell, or the file is another user's."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    if sys.platform != "linux":
        return True
    try:
        # A lease to read is given where nobody writes. Who comes to write waits for its end, of which the kernel tells
        # by a signal: by one that ends no process.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def _opened(name: str, folder: int | None) -> Iterator[tuple[int, object]]:
    """Open a folder, which is no link; gives it and the mount it is on."""
    opened = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield opened, (os.fstat(opened).st_dev, _mount(opened))
    finally:
        os.close(opened)


def _mount(folder: int) -> str:
    """Give the mount's id, by which a part of the same file system that is mounted again is told; "" where unknown."""
    try:
        with open(f"/proc/self/fdinfo/{folder}") as file:
            return next((line for line in file if line.startswith("mnt_id:")), "")
    except OSError:
        return ""
