"""Jobs claimed ahead: where short jobs fill all slots, the next one is here when a slot gets free.

Without them a slot would stay empty for a round trip and more after each job: with 100 slots and jobs of 10 ms for a
third of the time. As many are claimed ahead as lately ended within two round trips and `AHEAD`, none where jobs take
long. They are read and checked while the next call is under way, so that no slot waits for that. And jobs that waited
themselves, which end many at a time, leave their slots to the next before anything else is done about them.

What waits here for longer than `PATIENCE` is handed back, uncounted, for other workers. Redis knows which have not
begun: no crash counts for these.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from daemon.broker import Claim, Outcome

if TYPE_CHECKING:
    from daemon.running.run import Run
    from daemon.worker import Worker

#: How long a claimed job waits for a slot here, seconds; far below any lease, so that a process that was stopped and
#: goes on begins nothing that another one has by now.
PATIENCE = 0.1
#: At most so many wait here: what one call brings.
MOST = 128
#: Jobs often end together, as those that began together: so many more as end in this time are claimed ahead, seconds.
AHEAD = 0.005
#: Over how long a time the pace is averaged, seconds.
SMOOTH = 0.05


class Prefetch:
    """What one worker has claimed ahead.

    Args:
        worker: whose slots they wait for.

    Attributes:
        size: how many it should have now.
        allowed: whether its worker may claim what does not begin at once.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # As they came, then with the call to make; last of each, by the loop's clock, since when they wait.
        self._claims: deque[tuple[Claim, int, int, float]] = deque()
        self._runs: deque[tuple[Run, Callable[[], Any], float]] = deque()
        self._starting = False
        self._completions: list[Callable[[], None]] = []
        self._look: asyncio.TimerHandle | None = None
        self._pace = self._call = self._at = 0.0
        self._ended = 0
        family = worker.family
        # Stock workers watch what is claimed; permits and a burst's jobs are counted when they are claimed. And that a
        # job begins may be told in vain, to a connection that is dead already: it would run again after a crash.
        once = any(function.at_most_once for function in family.functions.values())
        forbidden = family.stock or family.values.shared_limits or once or worker.max_burst_jobs >= 0
        self.allowed = not forbidden
        self.size = 0

    def __len__(self) -> int:
        return len(self._runs) + len(self._claims)

    def observe(self, sent: float, replied: float) -> None:
        """Learn from a call; times by the loop's clock."""
        self._pace = (self._pace * SMOOTH + self._ended) / (SMOOTH + replied - self._at)
        self._call += (replied - sent - self._call) / 8
        self._ended, self._at = 0, replied
        self.size = min(int(self._pace * (2 * self._call + AHEAD)), MOST) if self.allowed else 0

    def add(self, claims: Sequence[Claim], number: int, now_ms: int) -> None:
        """Take claims for which there is no slot yet; see `Worker.start`."""
        self._claims.extend((claim, number, now_ms, self._at) for claim in claims)
        if self._look is None:
            self._look = self._worker.loop.call_later(PATIENCE, self._give_up)

    def prepare(self) -> None:
        """Read and check what has come; one that cannot run has ended with that."""
        worker, claims = self._worker, self._claims
        while claims:
            claim, number, now_ms, at = claims.popleft()
            run, call = worker.executor.prepare(claim, number, now_ms)
            if isinstance(call, Outcome):
                worker.ended(run, call, 0.0)
            else:
                self._runs.append((run, call, at))

    def slot_free(self) -> None:
        """A job has ended: start the next with all others of this turn of the loop."""
        self._ended += 1
        if self and not self._starting:
            self._starting = True
            self._worker.loop.call_soon(self.start)

    def goes_first(self, run: Run, complete: Callable[[], None]) -> bool:
        """A handler that waited has ended: give its slot to the next job, put its outcome together when that has begun.

        Args:
            complete: gives the worker the outcome.

        Returns:
            False when the job was given up before.
        """
        worker = self._worker
        if worker.running.get(run.claim.id) is not run:
            return False
        del worker.running[run.claim.id]
        self.slot_free()
        self._completions.append(complete)
        if len(self._completions) == 1:
            # In the next turn of the loop the next jobs are started, in the one after it they take their first steps.
            worker.loop.call_soon(worker.loop.call_soon, self.catch_up)
        return True

    @property
    def busy(self) -> bool:
        """Whether a job waits here, or an outcome is still to come."""
        return bool(self or self._completions)

    def catch_up(self) -> None:
        """Put the outcomes together that are still to come."""
        completions, self._completions = self._completions, []
        for complete in completions:
            complete()

    def start(self) -> None:
        """Start as many as there are slots."""
        worker, runs, self._starting = self._worker, self._runs, False
        if not self:
            return
        self.prepare()
        if worker.draining:
            self._hand_back(len(runs))
        overdue = worker.loop.time() - PATIENCE
        while runs and runs[0][2] < overdue:
            self._hand_back(1)
        slots = min(worker.slots_left, len(runs))
        if slots <= 0 or not worker.session.begin([runs[i][0].claim.id for i in range(slots)]):
            return
        now = time.time()
        for _ in range(slots):
            run, call, _ = runs.popleft()
            run.started = now
            worker.begin(run, call)

    def abort(self, job_id: bytes, number: str) -> bool:
        """A job is to be aborted: if it is here, it has ended with that. Gives whether it was."""
        self.prepare()
        for i, (run, _, _) in enumerate(self._runs):
            if run.claim.id == job_id and str(run.number) == number:
                del self._runs[i]
                aborted, call = self._worker.executor.prepare(run.claim._replace(aborted=b"1"), run.number, 0)
                assert isinstance(call, Outcome)
                self._worker.ended(aborted, call, 0.0)
                self._worker.nudge()
                return True
        return False

    def drop(self) -> None:
        """Forget all of them: they are released by a sync that does not name them."""
        self._runs.clear()
        self._claims.clear()

    def _give_up(self) -> None:
        self._look = None
        self.prepare()
        overdue = self._worker.loop.time() - PATIENCE
        self._hand_back(sum(at <= overdue for *_, at in self._runs))
        if self._runs:
            self._look = self._worker.loop.call_later(PATIENCE, self._give_up)

    def _hand_back(self, count: int) -> None:
        for _ in range(count):
            run, *_ = self._runs.popleft()
            self._worker.session.outcomes.append(Outcome("l", run.claim.id, run.number, "", -1, score=run.claim.score))
        if count:
            self._worker.nudge()
