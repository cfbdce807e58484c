"""A record's header, as Python reads and writes it."""

from __future__ import annotations

import pytest

from daemon.errors import Unreadable
from daemon.records import LATEST_MS, header, record_tail, split_head, split_record, tail_of, written_tail

MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ((5, MS), b"q518bcfe56800 "),
        ((0, 1), b"q01 "),
        ((10, MS, 0, 9), b"qa18bcfe56800,9 "),
        ((3, MS, 5000), b"q318bcfe56800,0,5000 "),
        ((3, MS, 5000, MS + 1), b"q318bcfe56800,1700000000001,5000 "),
    ],
)
def test_what_a_job_has_not_got_is_left_out(times: tuple[int, ...], text: bytes) -> None:
    assert header(*times) == text
    assert split_head(text + b"rest of it") == ((*times, 0, 0)[:4], b"rest of it")


def test_a_record_is_taken_apart_without_decoding_its_body() -> None:
    found = split_record(header(3, MS, 5000, 9) + b"send mail\tgroup\n{not json")
    assert found == (3, MS, 5000, 9, "send mail", "group", "", b"{not json")
    found = split_record(header(3, MS) + record_tail("send mail", "", b"[]", "2#0-_c0d"))
    assert found == (3, MS, 0, 0, "send mail", "", "2#0-_c0d", b"[]")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"q", b"q5", b"q51", b"q51\n", b"q51 \n", b"q51 f\n[]", b"q51 f\t", b"r51 f\t\n", b"q-1 f\t\n",
        b"q5g f\t\n",
        b"q51,x f\t\n", b"q51,1,2,3 f\t\n", b"q5,1 f\t\n", b"q51 \xff\t\n", b"q5%x f\t\n" % LATEST_MS, b"\x80" * 600,
        b"q51," + b"9" * 5000 + b" f\t\n",
    ],
)  # fmt: skip
def test_what_is_no_record_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        split_record(raw)


@pytest.mark.parametrize("body", [b'[{"n":1}]', b"\x01\0\0\0\1\xff"])
def test_a_tail_travels_as_json(body: bytes) -> None:
    tail = record_tail("send", "acme", body)
    assert tail_of(written_tail(tail)) == tail
