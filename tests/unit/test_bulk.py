"""Jobs in bulk are written as they are one by one, though what they have in common is written once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import model_serializer

from daemon import carried
from daemon.codec import MAX_DEPTH
from daemon.encryption import KeyRing, generate_key
from daemon.errors import InvalidJob, TooLarge
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.producing.batches import ids_of
from daemon.producing.bulk import prepare_alike, prepare_each
from daemon.producing.handover import Asked, Lot
from daemon.producing.keep import Keep
from daemon.producing.options import JobOptions
from daemon.retry import Fixed
from daemon.secret import Secret
from daemon.testing.recording import RecordingProducer

NONE = JobOptions()


class Mail(Payload, family="bulk", function="send", priority=3, returns=int):
    to: str
    number: int = 0
    more: Any = None


class Letter(Mail, function="post"):
    pass


class Listed(Mail, function="listed"):
    @model_serializer
    def as_list(self) -> list[Any]:
        return [self.to, self.number]


class Keyed(Mail, function="keyed"):
    def dedup_key(self) -> str:
        return f"{self.to}-{self.number}"

    def group_key(self) -> str:
        return self.to


class Sealed(Mail, family="sealed", encrypted=True):
    pass


class Marked(Mail):
    to: Secret[str]


class Elsewhere(Payload, family="elsewhere"):
    pass


@pytest.fixture
def producer() -> Producer:
    return RecordingProducer(templates={"late": {"delay": "5m", "tags": ["late"]}})


def _payloads(kind: type[Mail], count: int = 3) -> list[Mail]:
    return [kind(to="ada", number=number) for number in range(count)]


def _asked(payloads: list[Mail], options: Any) -> list[Asked]:
    return [(payload, None, None, options) for payload in payloads]


def _same_but_for_ids(producer: Producer, payloads: list[Mail], options: Any = NONE) -> Lot:
    in_bulk, one_by_one = (
        prepare_alike(producer, payloads, None, options),
        prepare_each(producer, _asked(payloads, options)),
    )
    assert in_bulk is not None
    assert [job[1:] for job in in_bulk.jobs] == [job[1:] for job in one_by_one.jobs]
    assert (in_bulk.family, in_bulk.returns) == (one_by_one.family, one_by_one.returns)
    ids = set(ids_of(in_bulk.jobs))
    assert len(ids) == len(payloads)
    assert {len(job_id) for job_id in ids} == {len(one_by_one.jobs[0].id)}
    assert all(job_id.startswith("{bulk}:") for job_id in ids)
    return in_bulk


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"priority": "low"},
        {"delay": "15m"},
        {"run_at": datetime(2100, 1, 1, tzinfo=UTC)},
        {"expires": 60, "timeout": "5s"},
        {"max_tries": 2, "backoff": Fixed(5)},
        {"tags": ["\0", "\n"], "keep": Keep(completed="2h")},
        {"group": "tenant"},
        {"dedup_key": "once", "dedup_window": 60, "dedup_mode": "replace"},
        {"template": "late", "priority": 1},
        {"request_id": "request"},
    ],
    ids=lambda options: "-".join(options) or "none",
)
@pytest.mark.parametrize("kind", [Mail, Listed])
def test_as_one_by_one(producer: Producer, kind: type[Mail], options: dict[str, Any]) -> None:
    _same_but_for_ids(producer, _payloads(kind), options)


def test_those_of_a_request_carry_its_id(producer: Producer) -> None:
    token = carried.request_id.set("served")
    try:
        lot = _same_but_for_ids(producer, _payloads(Mail))
    finally:
        carried.request_id.reset(token)
    assert all(b'"served"' in job.tail for job in lot.jobs)


@pytest.fixture
def traced() -> Iterator[None]:
    carried.inject_with(lambda job_id, family, function: {"of": job_id})
    yield
    carried.inject_with(None)


@pytest.mark.usefixtures("traced")
def test_traced_ones_are_written_one_by_one(producer: Producer) -> None:
    assert prepare_alike(producer, _payloads(Mail), None, NONE) is None
    for job in prepare_each(producer, _asked(_payloads(Mail), NONE)).jobs:
        assert job.id.encode() in job.tail


@pytest.mark.parametrize("kind", [Keyed, Sealed, Marked])
def test_those_with_keys_or_secrets_are_written_one_by_one(kind: type[Mail]) -> None:
    producer = RecordingProducer()
    assert prepare_alike(producer, _payloads(kind), None, NONE) is None
    sealing = RecordingProducer(keyring=KeyRing.parse(generate_key("2026a")))
    assert prepare_alike(sealing, _payloads(Mail), None, NONE) is None


def test_those_of_several_classes_are_written_one_by_one(producer: Producer) -> None:
    payloads = [*_payloads(Mail), *_payloads(Letter)]
    assert prepare_alike(producer, payloads, None, NONE) is None
    names = [job.tail.partition(b"\t")[0].decode() for job in prepare_each(producer, _asked(payloads, NONE)).jobs]
    assert names == ["send"] * 3 + ["post"] * 3


def test_one_that_cannot_be_written_refuses_all(producer: Producer) -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    for wrong, message in ((object(), "cannot be written as JSON"), (deep, "levels deep"), (10**4300, "digits")):
        with pytest.raises(InvalidJob, match=message):
            prepare_alike(producer, [*_payloads(Mail), Mail(to="ada", more=wrong)], None, NONE)


def test_a_large_one_is_refused() -> None:
    producer = RecordingProducer(max_payload=60)
    fits, large = Mail(to="x" * 20), Mail(to="x" * 60)
    assert prepare_alike(producer, [fits] * 3, None, NONE) is not None
    with pytest.raises(TooLarge, match="the limit is 60"):
        prepare_alike(producer, [fits, large], None, NONE)


def test_of_several_families_they_are_refused(producer: Producer) -> None:
    asked: list[Asked] = [(Mail(to="ada"), None, None, NONE), (Elsewhere(), None, None, NONE)]
    with pytest.raises(InvalidJob, match="one family, not to bulk, elsewhere"):
        prepare_each(producer, asked)
