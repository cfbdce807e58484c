"""Files by path: only in folders that the operator allows, and never through a link out of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BeforeValidator

from daemon.errors import PermanentError


def _split_path(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


#: Folders in a setting, with ``:`` between them in the environment.
Folders = Annotated[tuple[Path, ...], BeforeValidator(_split_path)]


class PathForbidden(PermanentError):
    """The path is not inside an allowed folder."""


def confined(path: str, folders: Sequence[Path], setting: str) -> Path:
    """Give where a path leads, links followed; a relative one is looked for in each of the folders.

    Args:
        setting: the variable that names the folders, for the error.

    Raises:
        PathForbidden: it is outside of the folders.
    """
    inside: Path | None = None
    for folder in folders if path.isprintable() else ():
        root = folder.resolve()
        found = (root / path).resolve()
        if found.is_relative_to(root) and found != root:
            inside = inside or found
            if found.exists():
                return found
    if inside is None:
        raise PathForbidden(f"a path is not inside an allowed folder ({setting})")
    return inside


def open_confined(path: str, folders: Sequence[Path], setting: str, limit: int) -> BinaryIO:
    """Open a plain file inside one of the folders.

    Args:
        limit: largest size accepted, bytes.

    Raises:
        PathForbidden: it is outside of the folders, no plain file, or too large.
        OSError: it cannot be read now.
    """
    # Not following a link put there since, not waiting for the writer of a pipe.
    try:
        number = os.open(confined(path, folders, setting), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        # Not naming it: a path may be somebody's name.
        raise FileNotFoundError("a file is not in its folder (yet)") from None
    status = os.fstat(number)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return os.fdopen(number, "rb")
    os.close(number)
    if not stat.S_ISREG(status.st_mode):
        raise PathForbidden("a path leads to something that is no plain file")
    raise PathForbidden(f"a file has {status.st_size:,} bytes; the limit is {limit:,}")
