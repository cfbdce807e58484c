"""Producers that send nothing."""

from __future__ import annotations

import pytest

from daemon.errors import ArqdError, InvalidJob, TooLarge
from daemon.payload import Payload
from daemon.testing.recording import RecordingProducer, RecordingSyncProducer


class Invoice(Payload, family="billing"):
    number: int
    note: str = ""

    def dedup_key(self) -> str:
        return f"invoice-{self.number}"


class Reminder(Payload, family="billing"):
    number: int


class Entry(Payload, family="records"): ...


async def test_keeps_what_it_is_given() -> None:
    producer = RecordingProducer(templates={"slow": {"priority": "low", "max_tries": 2}})
    job = await producer.enqueue(Invoice(number=1), template="slow", max_tries=3)
    await producer.enqueue_many([Reminder(number=1), Reminder(number=2)], delay="1d")
    await producer.enqueue("archive", {"number": 1}, family="records", job_id="one")
    assert [recorded.function for recorded in producer.jobs] == ["invoice", "reminder", "reminder", "archive"]
    first, *_, last = producer.jobs
    assert (first.id, first.family) == (job.id, "billing")
    assert first.options == {"priority": "low", "max_tries": 3, "dedup_key": "invoice-1"}
    assert (last.id, last.payload) == ("records:one", {"number": 1})
    assert producer.payloads(Reminder) == [Reminder(number=1), Reminder(number=2)]


async def test_checks_as_the_real_one() -> None:
    producer = RecordingProducer(max_payload=100)
    with pytest.raises(InvalidJob, match="unknown options"):
        await producer.enqueue(Reminder(number=1), dealy=3)  # type: ignore[call-arg]
    with pytest.raises(TooLarge):
        await producer.enqueue(Invoice(number=1, note="x" * 100))
    with pytest.raises(InvalidJob, match="one family"):
        await producer.enqueue_each([((Reminder(number=1), None), {}), ((Entry(), None), {})])
    assert producer.jobs == []


async def test_an_id_is_taken_once() -> None:
    producer = RecordingProducer()
    handles = [await producer.enqueue(Reminder(number=n), job_id="same") for n in (1, 2)]
    assert [handle.created for handle in handles] == [True, False]
    assert producer.payloads(Reminder) == [Reminder(number=1)]


async def test_only() -> None:
    producer = RecordingProducer()
    with pytest.raises(AssertionError, match=r"0 jobs of Invoice .* there is nothing"):
        producer.only(Invoice)
    await producer.enqueue(Invoice(number=1))
    assert producer.only(Invoice) is producer.only("invoice") is producer.jobs[0]
    await producer.enqueue(Invoice(number=2))
    with pytest.raises(AssertionError, match="2 jobs of invoice"):
        producer.only("invoice")


async def test_there_is_nothing_to_ask() -> None:
    async with RecordingProducer() as producer:
        assert await producer.health()
        job = await producer.enqueue(Reminder(number=1))
        with pytest.raises(ArqdError, match="sends nothing"):
            await job.status()
        with pytest.raises(ArqdError, match="sends nothing"):
            await job.result(timeout=1)


def test_without_await() -> None:
    with RecordingSyncProducer() as producer:
        job = producer.enqueue(Invoice(number=1), delay=5)
        producer.enqueue_many("reminder", [{"number": 1}], family="billing")
        assert producer.recorded.only(Invoice).id == job.id
        assert [recorded.function for recorded in producer.recorded.jobs] == ["invoice", "reminder"]
        with pytest.raises(InvalidJob):
            producer.enqueue(Invoice(number=1), priority=11)
        with pytest.raises(ArqdError, match="sends nothing"):
            job.info()
