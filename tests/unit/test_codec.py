"""The codec: what goes in comes out in its type, and nothing else is ever decoded."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import ValidationError

from daemon import codec
from daemon.errors import InvalidJob, JobExpired, JobFailed, TooLarge, Unreadable
from daemon.payload import Payload, PayloadModel
from daemon.records import MAGIC, header, record_tail, split_record
from daemon.running.binding import Binder


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Nothing(PayloadModel):
    pass


class Card(PayloadModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(PayloadModel):
    kind: Literal["cash"] = "cash"
    amount: Decimal


class Everything(Payload, family="t", function="f"):
    at: datetime
    day: date
    wait: timedelta
    price: Decimal
    data: bytes
    key: UUID
    colour: Colour
    size: Size
    note: str | None
    paid: Card | Cash
    many: list[Cash]
    by_name: dict[str, tuple[int, float]]
    tags: set[str]
    first_name: str = ""


EVERYTHING = Everything(
    at=datetime(2026, 3, 1, 12, 0, 0, 123456, UTC),
    day=date(2026, 3, 1),
    wait=timedelta(days=1, microseconds=1),
    price=Decimal("0.10"),
    data=bytes(range(256)),
    key=UUID("01234567-89ab-cdef-0123-456789abcdef"),
    colour=Colour.RED,
    size=Size.LARGE,
    note=None,
    paid=Cash(amount=Decimal("1E+3")),
    many=[Cash(amount=Decimal(1))],
    by_name={"é": (1, 2.5)},
    tags={"a"},
    first_name="Zoë \u0000\U0001f600",
)


async def takes_model(ctx: Any, job: Everything) -> None: ...


async def takes_card(ctx: Any, job: Card) -> None: ...


async def takes_no_fields(ctx: Any, job: Nothing) -> None: ...


async def takes_values(ctx: Any, at: datetime, price: Decimal, *, colour: Colour = Colour.RED) -> None: ...


async def takes_defaults(ctx: Any, a: int, b: bytes = b"b", *rest: Any, **more: Any) -> None: ...


async def takes_nothing(ctx: Any) -> None: ...


async def takes_anything(ctx, a, b): ...  # type: ignore[no-untyped-def]


async def knows_no_context(ctx: NotImportedHere, job: Card) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def body(args: Any = (), kwargs: Any = None, options: Any = None) -> bytes:
    """A body as a stock producer's, with keyword arguments, where it has them."""
    encoded = codec.encode(list(args))
    if kwargs:
        encoded += b',"k":' + codec.encode(kwargs)
    return codec.encode_body(encoded, options)


def bind(function: Any, args: Any = (), kwargs: Any = None) -> tuple[list[Any], dict[str, Any]]:
    bound, named, _ = Binder(function).bind(body(args, kwargs))
    return list(bound), dict(named)


# ---------------------------------------------------------------- arguments


def test_every_type_of_a_payload_survives() -> None:
    (job,), named = bind(takes_model, [EVERYTHING])
    assert job == EVERYTHING
    assert named == {}
    assert type(job.price) is Decimal
    assert str(job.price) == "0.10"


def test_camel_case_names_are_understood_on_the_way_too() -> None:
    fields = EVERYTHING.model_dump(mode="json")
    fields["firstName"], fields["byName"] = fields.pop("first_name"), fields.pop("by_name")
    assert bind(takes_model, [fields]) == ([EVERYTHING], {})


def test_positional_arguments_come_in_their_types() -> None:
    given = [datetime(2026, 3, 1, tzinfo=UTC), Decimal("1.50")]
    assert bind(takes_values, given) == (given, {})
    assert bind(takes_values, given, {"colour": "red"}) == (given, {"colour": Colour.RED})


def test_keyword_arguments_come_in_their_types() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    args, named = bind(takes_values, [], {"price": "1.50", "at": at, "colour": "red"})
    assert (args, named) == ([], {"price": Decimal("1.50"), "at": at, "colour": Colour.RED})


def test_defaults_and_surplus_arguments_work_as_in_a_call() -> None:
    assert bind(takes_defaults, [1]) == ([1], {})
    assert bind(takes_defaults, ["1", "_w==", "x", "y"]) == ([1, b"\xff", "x", "y"], {})
    assert bind(takes_defaults, [1], {"other": [1]}) == ([1], {"other": [1]})


def test_a_function_without_annotations_gets_plain_json() -> None:
    assert bind(takes_anything, [EVERYTHING.price, {"a": Colour.RED}]) == (["0.10", {"a": "red"}], {})


def test_a_function_without_parameters_takes_no_arguments() -> None:
    assert bind(takes_nothing) == ([], {})
    with pytest.raises(ValidationError):
        bind(takes_nothing, [1])


def test_a_model_takes_its_fields_as_keyword_arguments_too() -> None:
    assert bind(takes_card, [], {"number": "1"}) == ([Card(number="1")], {})
    assert bind(takes_card, [], {"job": {"number": "1"}}) == ([], {"job": Card(number="1")})
    with pytest.raises(ValidationError, match="extra_forbidden"):
        bind(takes_card, [], {"number": "1", "more": 2})
    with pytest.raises(ValidationError, match="number\n  Field required"):
        bind(takes_card)
    assert bind(takes_no_fields) == ([Nothing()], {})


def test_a_context_annotation_that_cannot_be_resolved_does_not_cost_the_payload_its_type() -> None:
    assert bind(knows_no_context, [{"number": "1"}]) == ([Card(number="1")], {})


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (takes_card, [{"number": "1", "secret": "4711"}], {}),
        (takes_card, [{"number": ["4711"]}], {}),
        (takes_card, ["4711"], {}),
        (takes_card, [], {"number": {"4711": 1}}),
        (takes_values, ["4711x", "4711y"], {}),
        (takes_values, [], {"at": "4711x", "price": "4711y"}),
        (takes_defaults, ["4711x"], {}),
    ],
)
def test_what_does_not_fit_is_refused_without_quoting_it(function: Any, args: Any, kwargs: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        bind(function, args, kwargs)
    shown = str(caught.value) + "".join(traceback.format_exception(caught.value))
    assert "4711" not in shown


def test_options_come_back_beside_the_arguments() -> None:
    _, _, options = Binder(takes_card).bind(body([Card(number="1")], {}, {"n": 3, "g": ["tag"]}))
    assert options == {"n": 3, "g": ["tag"]}


@pytest.mark.parametrize(
    "wrong",
    [b"", b"{", b"[", b"{}", b"1", b'1,"k":{}', b'[],"k":[]', b'[],"o":7', b'{"a":[],"k":{}}', b"\xff"],
)
def test_a_body_of_another_shape_is_unreadable(wrong: bytes) -> None:
    with pytest.raises(Unreadable):
        codec.decode_body(wrong)
    with pytest.raises((Unreadable, ValidationError)):
        Binder(takes_defaults).bind(wrong)


@pytest.mark.parametrize("value", [object(), lambda: 1, {"a": object()}, "lone \ud800"])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(InvalidJob, match="result cannot be written as JSON"):
        codec.encode(value, "result")


def test_what_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidJob, match="result cannot be written as JSON"):
        codec.encode(endless, "result")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("before", [0, 1, 511, 100_000])
def test_an_integer_that_could_not_be_read_again_is_refused(before: int, sign: int) -> None:
    def written(value: Any) -> bytes:
        return codec.encode(["x" * before, value, "y" * 600])

    codec.check_readable(longest := written(sign * 10**4299), "payload")
    assert codec.decode_body(longest)[0][1] == sign * 10**4299
    codec.check_readable(written("7" * 20_000), "payload")
    with pytest.raises(InvalidJob, match="the payload has an integer of more than 4,300 digits"):
        codec.check_readable(written(sign * 10**4300), "payload")


def test_a_size_over_the_limit_is_told_with_both_numbers() -> None:
    codec.check_size(10, 10, "payload")
    with pytest.raises(TooLarge, match=r"payload is 1,000,001 bytes, the limit is 1,000,000.*raise max_payload"):
        codec.check_size(1_000_001, 1_000_000, "payload")


# ---------------------------------------------------------------- records


def record(function: str = "f", schema: str = "") -> bytes:
    return header(3, 1_700_000_000_000, 5000) + record_tail(function, "", body([1], {"b": 2}), schema)


PICKLE = pickle.dumps({"t": None, "f": "f", "a": (), "k": {}, "et": 1})


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\x00\xff", PICKLE, b'{"f":"f"}', b"q", b"q1\n{}", b"qx y f\t\n{}", b"q51 \xff\t\n{}", b"q51 f\t",
        b"r51 f\t\n{}",
        b"q5" + b"9" * 5000 + b" f\t\n{}",
    ],
)  # fmt: skip
def test_what_another_wrote_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        split_record(raw)
    with pytest.raises(Unreadable):
        codec.loads(raw)


class TouchesAFile:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_a_pickle_is_never_decoded(tmp_path: Any) -> None:
    bomb = tmp_path / "touched"
    for raw in (pickle.dumps(TouchesAFile(str(bomb))), MAGIC + pickle.dumps(TouchesAFile(str(bomb)))):
        for decode in (codec.loads, codec.decode_result, split_record, codec.decode_body):
            with pytest.raises(Unreadable):
                decode(raw)
    assert not bomb.exists()


# ---------------------------------------------------------------- results and errors

ENDED = codec.Ended("{t}:1", "f", "arq:{t}", 2, 1, 2, 3)


def test_a_result_record_carries_the_arguments_as_they_were() -> None:
    raw = codec.encode_result(ENDED, True, codec.encode({"x": Decimal("0.10")}), body([1], {"b": 2}))
    found = codec.decode_result(raw)
    assert found == {
        "s": True, "t": 2, "f": "f", "et": 1, "st": 2, "ft": 3, "q": "arq:{t}", "id": "{t}:1",
        "r": {"x": "0.10"}, "a": [1], "k": {"b": 2},
    }  # fmt: skip
    for given, args in ((b"[1]", [1]), (b'[1],"o":{"n":2}', [1]), (b"{", []), (b"", []), (None, [])):
        found = codec.decode_result(codec.encode_result(ENDED, True, b"null", given))
        assert (found["a"], found["k"]) == (args, {})


@pytest.mark.parametrize("strange", [None, b"", b"garbage", PICKLE])
def test_a_result_of_an_unreadable_job_can_be_written(strange: bytes | None) -> None:
    found = codec.decode_result(codec.encode_result(ENDED, True, b"1", strange))
    assert (found["r"], found["a"], found["k"]) == (1, [], {})


@pytest.mark.parametrize("raw", [b"", b"1", b"[]", b"{}", b'{"s":true}', PICKLE])
def test_a_result_of_another_writer_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        codec.decode_result(raw)


def failed_with(error: BaseException, reason: str = "tries") -> BaseException:
    try:
        raise error
    except BaseException as raised:
        written = codec.encode_result(ENDED, False, codec.encode(codec.describe_error(raised, reason)), None)
    found = codec.decode_result(written)
    return codec.rebuild_error(found["r"], found["t"])


def test_an_exception_travels_as_type_message_and_traceback() -> None:
    error = failed_with(ValueError("no such address"))
    assert isinstance(error, JobFailed)
    assert (error.type, error.message, error.reason, error.tries) == ("ValueError", "no such address", "tries", 2)
    assert "in failed_with" in error.traceback
    assert str(error) == "ValueError: no such address"
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)


def test_expired_and_aborted_come_back_as_such() -> None:
    assert isinstance(failed_with(JobExpired("JobExpired", "too late"), "expired"), JobExpired)
    assert isinstance(failed_with(asyncio.CancelledError("by hand"), "aborted"), asyncio.CancelledError)


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no file caf\udce9"), "ValueError"),
        (NoText(), "NoText"),
        (ValueError("x" * 1_000_000), "ValueError"),
        (ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "ExceptionGroup"),
    ],
)
def test_no_exception_is_too_strange_to_be_told(error: Exception, kind: str) -> None:
    back = failed_with(error)
    assert isinstance(back, JobFailed)
    assert back.type == kind
    assert len(back.message) + len(back.traceback) < 50_000


# ---------------------------------------------------------------- stock arq's side


def test_a_stock_job_round_trip() -> None:
    raw = codec.dumps({"t": None, "f": "f", "a": (1, "x"), "k": {"b": None}, "et": 1_700_000_000_000})
    assert raw.startswith(MAGIC)
    assert codec.loads(raw) == {"t": None, "f": "f", "a": [1, "x"], "k": {"b": None}, "et": 1_700_000_000_000}


def test_arqds_own_record_reads_as_a_stock_job() -> None:
    for found in (codec.loads(record()), codec.loads(record(schema="1#0a0b0c0d"))):
        assert found == {"t": None, "f": "f", "a": [1], "k": {"b": 2}, "et": 1_700_000_000_000}
    bare = codec.loads(header(3, 1_700_000_000_000) + record_tail("f", "", b"[1]"))
    assert bare == {"t": None, "f": "f", "a": [1], "k": {}, "et": 1_700_000_000_000}


def test_a_stock_result_gives_its_exception_back() -> None:
    stock = {"t": 1, "f": "f", "a": (), "k": {}, "et": 1, "s": False, "st": 2, "ft": 3, "q": "q", "id": "1"}
    failed = codec.loads(codec.dumps({**stock, "r": ValueError("no")}))
    assert isinstance(failed["r"], JobFailed)
    assert failed["r"].type == "ValueError"
    assert isinstance(codec.loads(codec.dumps({**stock, "r": asyncio.CancelledError()}))["r"], asyncio.CancelledError)
    assert codec.loads(codec.dumps({**stock, "s": True, "r": {"x": 1}}))["r"] == {"x": 1}


def test_an_aborted_job_is_told_whatever_its_record_was() -> None:
    for raw in (None, b"garbage", record()):
        assert codec.was_aborted(codec.encode_aborted("{t}:1", "arq:{t}", raw))
    assert codec.decode_result(codec.encode_aborted("{t}:1", "arq:{t}", record()))["f"] == "f"
    assert codec.was_aborted(codec.encode_aborted("{t}:1", "arq:{t}", b"q5 broken"))
