"""What the steps of a job gave, so that another try does not repeat their effects: `JobContext.once`.

A step that has ended leaves a receipt: its result as JSON, stored with the job under the token of the claim. Each try
reads the receipts once, when its first step asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from daemon import codec
from daemon.encryption import CONTEXT, SEALED_JSON, shown
from daemon.errors import ClaimLost, InvalidJob, PermanentError, TooLarge
from daemon.keys import spoken_id

if TYPE_CHECKING:
    from daemon.running.run import Run
    from daemon.worker import Worker

LONGEST_NAME = 100
#: How long the end of a cancelled handler waits for the receipt of a step that has just ended, seconds.
LAST_CALL = 5.0


def check_step(step: str) -> str:
    """Give the name of a step back.

    Raises:
        InvalidJob: when it is empty, too long or not plain text.
    """
    if not step.isprintable() or not 1 <= len(step) <= LONGEST_NAME:
        raise InvalidJob(f"{step!r} is not a step's name: use plain text of 1 to {LONGEST_NAME} characters")
    return step


class Receipts:
    """The receipts of one job during one try.

    Args:
        worker: whose session holds the job.
        run: the try.
    """

    def __init__(self, worker: Worker, run: Run) -> None:
        self._worker = worker
        self._run = run
        self._kept: dict[str, bytes] | None = None
        self._reading = asyncio.Lock()
        self._steps: dict[str, asyncio.Lock] = {}

    async def once(self, step: str, call: Callable[[], Any], returns: Any) -> Any:
        """See `JobContext.once`."""
        # A step asked for twice at the same time runs once, and both get its result.
        async with self._steps.setdefault(check_step(step), asyncio.Lock()):
            kept = await self._read()
            if step not in kept:
                result = call()
                if isawaitable(result):
                    result = await result
                await self._keep(step, result, kept)
            raw = kept[step]
        if returns is not None:
            return codec.typed(returns).validate_json(raw, context={CONTEXT: self._run.cipher})
        return shown(from_json(raw), "field", self._run.cipher) if SEALED_JSON in raw else from_json(raw)

    async def _read(self) -> dict[str, bytes]:
        async with self._reading:
            if self._kept is None:
                lines = (await self._ask()).splitlines()
                parts = [(name.decode(), raw) for name, _, raw in (line.partition(b"\t") for line in lines)]
                self._kept = {name: self._run.read(f"receipt {name}", raw) for name, raw in parts}
            return self._kept

    async def _keep(self, step: str, result: Any, kept: dict[str, bytes]) -> None:
        try:
            raw = codec.encode(result, "value", self._run.cipher)
            codec.check_readable(raw, "value")
        except InvalidJob as error:
            # Another try would repeat the effect, and fail in the same way.
            raise PermanentError(f"the result of step {step!r} cannot be kept: {error}") from None
        receipt = step.encode() + b"\t" + self._run.kept(f"receipt {step}", raw)
        size = len(receipt) + sum(len(name.encode()) + len(other) + 2 for name, other in kept.items())
        limit = self._worker.family.values.max_result
        if size > limit:
            raise TooLarge(
                f"with step {step!r} the job's receipts are {size:,} bytes, the limit is {limit:,}: "
                "let steps return little (an id, an address), or raise max_result"
            )
        await _finished(asyncio.ensure_future(self._ask(receipt)))
        kept[step] = raw

    async def _ask(self, receipt: bytes = b"") -> bytes:
        """Read the receipts or add one; without Redis this waits, since a step must not run or end unseen."""
        worker, run = self._worker, self._run

        async def call() -> bytes | None:
            return await worker.broker.once(worker.supervisor.session, run.claim.id, run.number, receipt)

        found = await worker.session.until_reached(call)
        if found is None:
            raise ClaimLost(
                f"job {spoken_id(run.job_id)} is not this worker's any more: another one has it, or it has ended. "
                "Stop here, and leave it alone"
            )
        return found


async def _finished(storing: asyncio.Future[bytes]) -> None:
    """Wait for a receipt to be stored: the effect has happened, so a cancellation that comes now waits a little."""
    try:
        await asyncio.shield(storing)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([storing], timeout=LAST_CALL)
        finally:
            storing.cancel()
        raise
