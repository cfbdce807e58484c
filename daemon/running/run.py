"""A claimed job on its way through a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daemon.broker import Claim
    from daemon.context import JobContext
    from daemon.encryption import JobCipher
    from daemon.family import JobFunction
    from daemon.running.dialect import Entry


class Run:
    """A claimed job on its way.

    Attributes:
        number: the call that claimed it; session and number are its token.
        entry: what was read of it, None while or where it could not be.
        job_try: which try this is, 1 for the first.
        args, kwargs: what the function gets; None while they could not be read.
        stop: why it was cancelled: ``timeout``, ``abort``, ``drain`` (handed back) or ``lost`` (another worker has it).
        started: when it was prepared, by the wall clock; ``begun_at`` and ``ended_at``: when its handler began and had
            ended, by `time.perf_counter`.
        waited: from when it could run to when it was prepared, seconds; known once it has an outcome.
        timeout: limit of this try, seconds.
        begun: whether its handler began.
        error: what it failed of, for listeners; None where the family has none.
        cipher: of the job, None in a process without keys.
    """

    # Of the class, since a run is made for every job and most of these are never set.
    entry: Entry | None = None
    function: JobFunction | None = None
    job_try: int = 1
    max_tries: int = 1
    options: Mapping[str, Any] | None = None
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    context: JobContext | None = None
    task: asyncio.Task[None] | None = None
    stop: str | None = None
    begun_at: float = 0.0
    ended_at: float = 0.0
    waited: float = 0.0
    timeout: float = 0.0
    begun: bool = False
    error: BaseException | None = None
    cipher: JobCipher | None = None

    def __init__(self, claim: Claim, number: int, job_id: str) -> None:
        self.claim = claim
        self.number = number
        self.job_id = job_id
        self.started = time.time()

    def kept(self, part: str, data: bytes) -> bytes:
        """Give JSON as it is stored with the job: encrypted where its family is."""
        cipher = self.cipher
        return data if cipher is None or not cipher.whole else cipher.seal_json(part, data)

    def read(self, part: str, data: bytes) -> bytes:
        """Give JSON that `kept` made.

        Raises:
            KeyMissing, Unreadable: see `JobCipher.open`.
        """
        return data if self.cipher is None else self.cipher.open_json(part, data)

    @property
    def stamp(self) -> str:
        """The enqueue stamp, as the scripts compare it."""
        return self.entry.stamp if self.entry else ""

    @property
    def name(self) -> str:
        """The function's name, ``?`` where it could not be read."""
        return self.entry.function if self.entry else "?"
