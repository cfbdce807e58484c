"""Ten thousand jobs come due in one millisecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Work
from tests.faults.figures import LENIENCE, within
from tests.faults.workshop import KEYS

COUNT = 10_000


async def test_ten_thousand_jobs_due_in_one_millisecond(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=5, max_jobs=50)
    await shop.ready(shop.start(), shop.start())
    async with shop.producer() as producer:
        # A busy machine takes longer to hand so many over.
        due = datetime.now(UTC) + timedelta(seconds=max(10, 5 * LENIENCE))
        await producer.enqueue_many([Work(name=str(n)) for n in range(COUNT)], run_at=due)
        with shop.server.client() as redis:
            assert redis.zcount(KEYS.queue, 0, "+inf") == COUNT, "all were handed over before they were due"
        await shop.until(lambda: shop.journal_lines() >= 2 * COUNT, "all have ended", 60)
    starts = shop.events("start")
    last = max(event.at for event in starts) - due.timestamp()
    assert min(event.at for event in starts) >= due.timestamp(), "none is early"
    assert set(shop.starts().values()) == {1}
    within(f"{COUNT:,} jobs due in one millisecond, 0 twice, the last starts after", last, 5)
