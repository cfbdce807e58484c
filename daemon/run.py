"""A claimed job on its way through a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daemon.broker import Claim
    from daemon.context import JobContext
    from daemon.dialect import Entry
    from daemon.encryption import JobCipher
    from daemon.family import JobFunction


@dataclass(slots=True)
class Run:
    """A claimed job on its way.

    Attributes:
        number: the call that claimed it; session and number are its token.
        job_try: which try this is, 1 for the first.
        args, kwargs: what the function gets; None while they could not be read.
        error: what it failed of, for listeners; None where the family has none.
        cipher: of the job, None in a process without keys.
        stop: why it was cancelled: ``timeout``, ``abort``, ``drain`` (handed back) or ``lost`` (another worker has it).
    """

    claim: Claim
    number: int
    job_id: str
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
    started: float = 0.0
    begun_at: float = 0.0
    timeout: float = 0.0
    begun: bool = False
    error: BaseException | None = None
    cipher: JobCipher | None = None

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
