"""Does a worker take what waits? What its heartbeat tells of it, and the probe's readiness judges."""

from __future__ import annotations

import time


class Progress:
    """Of one worker; times are Unix seconds.

    Attributes:
        claimable_since: since when work it could take has been known to wait, None when there is none.
        last_claim: when it last took a job.

    Two tell of work that waits: the replies of the worker's own calls, and the renewals of its lease, which go over
    another connection in another thread. So it is seen also when the worker makes no calls or gets no replies.
    """

    def __init__(self) -> None:
        self.claimable_since: float | None = None
        self.last_claim: float | None = None
        # When a renewal first found work waiting. One is no sign of trouble: a job may have come this very moment.
        self._renewal: float | None = None

    def replied(self, *, claims: bool, waits: bool) -> None:
        """A call brought jobs, or not, and left others that could be taken, or none."""
        now = time.time()
        if claims:
            self.last_claim = now
        if not waits:
            self.claimable_since = self._renewal = None
        elif self.claimable_since is None or claims:
            self.claimable_since = now

    def renewed(self, *, waits: bool) -> None:
        """A renewal of the lease found jobs that could be taken, or none."""
        if not waits:
            self.claimable_since = self._renewal = None
        elif self._renewal is None:
            self._renewal = time.time()
        elif self.claimable_since is None:
            self.claimable_since = self._renewal
