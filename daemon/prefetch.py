"""Jobs claimed ahead: where short jobs fill all slots, the next one is here when a slot gets free.

Without them a slot would stay empty for a round trip and more after each job: with 100 slots and jobs of 10 ms for a
third of the time. As many are claimed ahead as lately ended within two round trips, none where jobs take long. What
waits here for longer than `PATIENCE` is handed back, uncounted, for other workers. Redis knows which have not begun: no
crash counts for these.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from daemon.broker import Claim, Outcome

if TYPE_CHECKING:
    from daemon.worker import Worker

#: How long a claimed job waits for a slot here, seconds; far below any lease, so that a process that was stopped and
#: goes on begins nothing that another one has by now.
PATIENCE = 0.1
#: At most so many wait here: what one call brings.
MOST = 128
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
        self._claims: deque[tuple[Claim, int, int, float]] = deque()
        self._starting = False
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
        return len(self._claims)

    def observe(self, sent: float, replied: float) -> None:
        """Learn from a call; times by the loop's clock."""
        self._pace = (self._pace * SMOOTH + self._ended) / (SMOOTH + replied - self._at)
        self._call += (replied - sent - self._call) / 8
        self._ended, self._at = 0, replied
        self.size = min(int(self._pace * 2 * self._call), MOST) if self.allowed else 0

    def add(self, claims: Sequence[Claim], number: int, now_ms: int) -> None:
        """Take claims for which there is no slot yet; see `Worker.start`."""
        self._claims.extend((claim, number, now_ms, self._at) for claim in claims)
        if self._look is None:
            self._look = self._worker.loop.call_later(PATIENCE, self._give_up)

    def slot_free(self) -> None:
        """A job has ended: start the next with all others of this turn of the loop."""
        self._ended += 1
        if self._claims and not self._starting:
            self._starting = True
            self._worker.loop.call_soon(self.start)

    def start(self) -> None:
        """Start as many as there are slots."""
        worker, claims, self._starting = self._worker, self._claims, False
        if worker.draining:
            self._hand_back(len(claims))
        overdue = worker.loop.time() - PATIENCE
        while claims and claims[0][3] < overdue:
            self._hand_back(1)
        slots = min(worker.slots_left, len(claims))
        if slots <= 0 or not worker.session.begin([claims[i][0].id for i in range(slots)]):
            return
        for _ in range(slots):
            claim, number, now_ms, _ = claims.popleft()
            worker.start(claim, number, now_ms)

    def abort(self, job_id: bytes, number: str) -> None:
        """A job is to be aborted; if it is here it ends as such when its turn comes."""
        for i, (claim, own, now_ms, at) in enumerate(self._claims):
            if claim.id == job_id and str(own) == number:
                self._claims[i] = (claim._replace(aborted=b"1"), own, now_ms, at)

    def drop(self) -> None:
        """Forget all of them: they are released by a sync that does not name them."""
        self._claims.clear()

    def _give_up(self) -> None:
        self._look = None
        overdue = self._worker.loop.time() - PATIENCE
        self._hand_back(sum(at <= overdue for *_, at in self._claims))
        if self._claims:
            self._look = self._worker.loop.call_later(PATIENCE, self._give_up)

    def _hand_back(self, count: int) -> None:
        for _ in range(count):
            claim, number, *_ = self._claims.popleft()
            self._worker.session.outcomes.append(Outcome("l", claim.id, number, "", -1, score=claim.score))
        if count:
            self._worker.nudge()
