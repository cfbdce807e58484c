"""What watches runs from outside, a tracer or a collector of errors: an executor that tells it of every run.

Without one a worker has the plain `Executor`, so nothing here is on a job's way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from daemon.decisions import Decisions
from daemon.executor import Executor
from daemon.running.run import Run

if TYPE_CHECKING:
    from daemon.broker import Outcome
    from daemon.worker import Worker


class Instrument(Protocol):
    """What is told; what it raises would end the job, so it must not raise."""

    def begin(self, run: Run, family: str) -> None:
        """A try begins, in a context of its own: what is set in that need not be taken back."""
        ...

    def failed(self, run: Run, error: BaseException, family: str, reason: str | None, *, hidden: bool) -> None:
        """A try failed; ``reason`` says why it is a dead letter now, None that it is tried again.

        ``hidden``: the family is encrypted, and so the error's text must not be told.
        """
        ...

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        """A try has its outcome; None: the job is no longer ours."""
        ...


class _Decisions(Decisions):
    """Tells of failures and outcomes."""

    def decided(self, run: Run, error: BaseException) -> Outcome | None:
        outcome = super().decided(run, error)
        if outcome is not None and outcome.kind == "r":
            self._report(run, error, None)
        return outcome

    def bury(self, run: Run, error: BaseException, reason: str) -> Outcome:
        self._report(run, error, reason)
        return super().bury(run, error, reason)

    def tell(self, run: Run, outcome: Outcome | None, duration: float) -> None:
        super().tell(run, outcome, duration)
        for instrument in InstrumentedExecutor.instruments:
            instrument.ended(run, outcome)

    def _report(self, run: Run, error: BaseException, reason: str | None) -> None:
        hidden = self.family.values.encrypted
        for instrument in InstrumentedExecutor.instruments:
            instrument.failed(run, error, self.family.name, reason, hidden=hidden)


class InstrumentedExecutor(Executor):
    """Runs jobs and tells the instruments."""

    instruments: ClassVar[list[Instrument]] = []

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.decisions = _Decisions(worker)

    async def execute(self, run: Run, call: Callable[[], Any]) -> None:
        """See `Executor.execute`."""
        # Not while a large body is still to be read: what a run carries of its trace stands in that.
        if run.args is not None:
            for instrument in self.instruments:
                instrument.begin(run, self.family.name)
        await super().execute(run, call)


def add_instrument(instrument: Instrument) -> None:
    """Have the workers that this process makes from now on tell it."""
    InstrumentedExecutor.instruments.append(instrument)
    Executor.chosen = InstrumentedExecutor


def remove_instruments() -> None:
    """Have workers that are made from now on tell nobody."""
    InstrumentedExecutor.instruments.clear()
    Executor.chosen = Executor
