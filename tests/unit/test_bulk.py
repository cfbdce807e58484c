"""Jobs in bulk are written as they are one by one, though what they have in common is written once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pydantic import model_serializer

from daemon import carried
from daemon.bulk import prepare_all
from daemon.codec import MAX_DEPTH
from daemon.encryption import KeyRing, generate_key
from daemon.errors import InvalidJob, TooLarge
from daemon.handover import Asked
from daemon.keep import Keep
from daemon.options import JobOptions
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.retry import Fixed
from daemon.secret import Secret
from daemon.testing.recording import RecordingProducer


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


def _asked(kind: type[Mail], options: Any = None, count: int = 3) -> list[Asked]:
    shared = cast(JobOptions, options or {})
    return [(kind(to="ada", number=number), None, None, shared) for number in range(count)]


def _same_but_for_ids(producer: Producer, asked: list[Asked]) -> None:
    in_bulk, one_by_one = prepare_all(producer, asked), [producer._prepare(*one) for one in asked]
    named = [(family, job[1:], returns) for family, job, returns in in_bulk]
    assert named == [(family, job[1:], returns) for family, job, returns in one_by_one]
    ids = {job.id for _, job, _ in in_bulk}
    assert len(ids) == len(asked)
    assert {len(job_id) for job_id in ids} == {len(one_by_one[0][1].id)}
    assert all(job_id.startswith("{bulk}:") for job_id in ids)


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
@pytest.mark.parametrize("kind", [Mail, Listed, Keyed])
def test_as_one_by_one(producer: Producer, kind: type[Mail], options: dict[str, Any]) -> None:
    _same_but_for_ids(producer, _asked(kind, options))


def test_those_of_a_request_carry_its_id(producer: Producer) -> None:
    token = carried.request_id.set("served")
    try:
        _same_but_for_ids(producer, _asked(Mail))
        assert b'"served"' in prepare_all(producer, _asked(Mail))[1][1].tail
    finally:
        carried.request_id.reset(token)


@pytest.fixture
def traced() -> Iterator[None]:
    carried.inject_with(lambda job_id, family, function: {"of": job_id})
    yield
    carried.inject_with(None)


@pytest.mark.usefixtures("traced")
def test_each_has_a_trace_of_its_own(producer: Producer) -> None:
    for _, job, _ in prepare_all(producer, _asked(Mail)):
        assert job.id.encode() in job.tail


@pytest.mark.parametrize("kind", [Sealed, Marked])
def test_what_is_secret_is_encrypted(kind: type[Mail]) -> None:
    producer = RecordingProducer(keyring=KeyRing.parse(generate_key("2026a")))
    for _, job, _ in prepare_all(producer, _asked(kind)):
        assert b"ada" not in job.tail
    with pytest.raises(InvalidJob, match="key"):
        prepare_all(RecordingProducer(), _asked(kind))


def test_different_ones_keep_their_order(producer: Producer) -> None:
    named: Asked = ("resize", ["cat.png"], "bulk", JobOptions())
    own: list[Asked] = [(Mail(to="bob"), None, None, JobOptions(job_id=name)) for name in "abc"]
    asked = [*_asked(Mail), *_asked(Letter), named, named, *own, *_asked(Mail)]
    prepared = prepare_all(producer, asked)
    names = [job.tail.partition(b"\t")[0].decode() for _, job, _ in prepared]
    assert names == ["send"] * 3 + ["post"] * 3 + ["resize"] * 2 + ["send"] * 6
    assert [job.id for _, job, _ in prepared[8:11]] == [f"{{bulk}}:{name}" for name in "abc"]


def test_one_that_cannot_be_written_refuses_all(producer: Producer) -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    for wrong, message in ((object(), "cannot be written as JSON"), (deep, "levels deep")):
        asked = [*_asked(Mail), (Mail(to="ada", more=wrong), None, None, JobOptions())]
        shared = [(one[0], None, None, asked[0][3]) for one in asked]
        with pytest.raises(InvalidJob, match=message):
            prepare_all(producer, cast(list[Asked], shared))


def test_a_large_one_is_refused() -> None:
    producer = RecordingProducer(max_payload=60)
    options = JobOptions()
    fits, large = Mail(to="x" * 20), Mail(to="x" * 60)
    assert len(prepare_all(producer, [(fits, None, None, options)] * 3)) == 3
    with pytest.raises(TooLarge, match="the limit is 60"):
        prepare_all(producer, [(fits, None, None, options), (large, None, None, options)])


def test_of_several_families_they_are_refused(producer: Producer) -> None:
    asked = [*_asked(Mail), (Elsewhere(), None, None, JobOptions()), (Elsewhere(), None, None, JobOptions())]
    with pytest.raises(InvalidJob, match="one family, not to bulk, elsewhere"):
        prepare_all(producer, asked)
