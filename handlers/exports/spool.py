"""Files that are being written: each job has a folder on this machine, which goes with it.

What a try has written is kept for the next one where it can be gone on with; a folder whose job does not come back is
removed by the next export on this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

#: The file in each folder that says whose it is; it is locked while a process works there.
OWNER = "owner"


class Spool:
    """The folders of all jobs.

    Args:
        root: made when it is first needed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def open(self, job_id: str) -> SpoolFolder:
        """Give the folder of a job: the one that an earlier try has left here, else a new one."""
        name = hashlib.sha256(job_id.encode()).hexdigest()[:32]
        # Somebody who has lost the job may still be at it.
        found = _locked(self._root / name, job_id) or _locked(self._root / f"{name}.{secrets.token_hex(8)}", job_id)
        assert found is not None
        return found

    async def sweep(self, returns: Callable[[str], Awaitable[bool]]) -> None:
        """Remove the folders of jobs that do not come back.

        Args:
            returns: tells of a job's id whether that job will be tried again.
        """
        for path in list(self._root.iterdir()) if self._root.is_dir() else []:
            with suppress(OSError):
                folder = _locked(path, None)
                if folder is None:
                    continue
                if folder.job_id and await returns(folder.job_id):
                    folder.leave()
                else:
                    folder.remove()


class SpoolFolder:
    """The folder of one job, this process's alone while it is open.

    Attributes:
        token: another one for each folder: what is known of a file in it is worth nothing without the file.
    """

    def __init__(self, path: Path, lock: int, job_id: str, token: str) -> None:
        self.path, self._lock, self.job_id, self.token = path, lock, job_id, token

    def leave(self) -> None:
        """Keep it for another try."""
        os.close(self._lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _locked(path: Path, job_id: str | None) -> SpoolFolder | None:
    """Open a folder, making it for a job; None when another process has it."""
    if job_id is not None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = os.open(path / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        # A sweep was quicker: until it is locked, a folder is nobody's.
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed between being opened and being locked.
        if os.stat(path / OWNER).st_ino != os.fstat(lock).st_ino:  # noqa: PTH116
            raise BlockingIOError
    except OSError:
        os.close(lock)
        return None
    token, _, owner = os.read(lock, 4096).decode().partition("\n")
    # Without the file itself, what is known of it is worth nothing.
    if job_id is not None and (owner != job_id or len(os.listdir(path)) < 2):  # noqa: PTH208
        token, owner = secrets.token_hex(8), job_id
        os.pwrite(lock, f"{token}\n{owner}".encode(), 0)
    return SpoolFolder(path, lock, owner, token)
