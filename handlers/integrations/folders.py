"""Files by path: only in folders that the operator allows, and never through a link out of them."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BeforeValidator

from daemon.errors import PermanentError


def _split_path(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
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
        try:
            found = (root / path).resolve()
            there = found.exists()
        except (OSError, RuntimeError):
            # A name too long for the disk, or links in a circle: no other try finds a file there.
            continue
        if found.is_relative_to(root) and found != root:
            inside = inside or found
            if there:
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
    with _folder_of(confined(path, folders, setting), folders) as (folder, name):
        # Not waiting for the writer of a pipe.
        number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    status = os.fstat(number)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return os.fdopen(number, "rb")
    os.close(number)
    if not stat.S_ISREG(status.st_mode):
        raise PathForbidden("a path leads to something that is no plain file")
    raise PathForbidden(f"a file has {status.st_size:,} bytes; the limit is {limit:,}")


def write_confined(path: str, folders: Sequence[Path], setting: str, file: BinaryIO) -> Path:
    """Write a file inside one of the folders, whole or not at all, and give where it is; folders are made.

    Raises:
        PathForbidden: it is outside of the folders.
        OSError: it cannot be written now.
    """
    found = confined(path, folders, setting)
    with _folder_of(found, folders, make=True) as (folder, name):
        draft = f".{secrets.token_hex(8)}.part"
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
        try:
            with os.fdopen(number, "wb") as written:
                file.seek(0)
                shutil.copyfileobj(file, written, 1024 * 1024)
                written.flush()
                os.fsync(written.fileno())
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(draft, dir_fd=folder)
            raise
    return found


def remove_confined(path: str, folders: Sequence[Path], setting: str, *, spared: Sequence[str] = ()) -> None:
    """Remove a file inside one of the folders; nothing happens when it is gone.

    Args:
        spared: absolute paths; where it is one of these it stays.

    Raises:
        PathForbidden: it is outside of the folders.
        OSError: it cannot be removed now.
    """
    found = confined(path, folders, setting)
    if any(found == Path(each).resolve() for each in spared):
        return
    with suppress(FileNotFoundError), _folder_of(found, folders) as (folder, name):
        os.unlink(name, dir_fd=folder)


@contextmanager
def _folder_of(path: Path, folders: Sequence[Path], *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder of a path that is `confined`, and give its descriptor and the path's name in it.

    Step by step, following no link: whoever can write in the folders may have put one there since it was looked at.
    """
    root = next(root for folder in folders if path.is_relative_to(root := folder.resolve()))
    try:
        if make:
            root.mkdir(parents=True, exist_ok=True)
        number = os.open(root, _FOLDER)
        try:
            for part in path.relative_to(root).parts[:-1]:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=number)
                inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=number)
                os.close(number)
                number = inner
            yield number, path.name
        finally:
            os.close(number)
    except OSError as error:
        # Not naming it: a path may be somebody's name.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise PathForbidden("a path leads through a link put there meanwhile, or through no folder") from None
        if error.errno == errno.ENAMETOOLONG:
            raise PathForbidden("a path has a name that is too long") from None
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError("a file is not in its folder (yet)") from None
        raise OSError(error.errno, error.strerror) from None
