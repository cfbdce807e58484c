"""Causes of failures: what messages of one bug have in common, and the place in the user's code."""

from __future__ import annotations

import asyncio
import json
import linecache
import re
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from daemon import codec
from daemon.causes import KEPT, Cause, cause_of, mask
from daemon.errors import JobFailed, TooLarge, Unreadable

# What libraries and handlers really say, and what is left of it.
MESSAGES = [
    ("order 17 has 3 items, 2 expected", "order # has # items, # expected"),
    ("no order 7f3a9c21-0b1d-4c55-9a11-2b3c4d5e6f70", "no order #"),
    ("no order 0197f3aab1c27d3e8f00112233445566", "no order #"),
    ("job email:0197f3aab1c27d3e is gone", "job email:# is gone"),
    ("order 10-ac and 12-17f are empty", "order # and # are empty"),
    ("ORD-2024-000123: not paid", "ORD-#: not paid"),
    ("ch_1NXabcdE, cus_NffrFeUfNV2Hib", "ch_#, cus_#"),
    ("01ARZ3NDEKTSV4RRFFQ69G5FAV is no invoice", "# is no invoice"),
    ("list index out of range", "list index out of range"),
    ("'customer-17'", "'…'"),
    ("invalid literal for int() with base 10: 'abc'", "invalid literal for int() with base #: '…'"),
    ("could not convert string to float: b'\\x00 1'", "could not convert string to float: '…'"),
    ("'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
     "'…' codec can't decode byte # in position #: invalid start byte"),
    ("Expecting ',' delimiter: line 1 column 17 (char 16)", "Expecting '…' delimiter: line # column # (char #)"),
    ("[Errno 2] No such file or directory: '/var/lib/a/17.json'", "[Errno 2] No such file or directory: '…'"),
    ("[Errno 111] Connect call failed ('127.0.0.1', 6379)", "[Errno 111] Connect call failed ('…', #)"),
    ("[Errno -2] Name or service not known", "[Errno -2] Name or service not known"),
    ("cannot open /srv/data/2024/report.pdf", "cannot open <path>"),
    (r"cannot open C:\data\17.pdf", "cannot open <path>"),
    ("choose and/or n/a", "choose and/or n/a"),
    ("Error 111 connecting to redis.internal:6379. Connection refused.",
     "Error # connecting to redis.internal:#. Connection refused."),
    ("connect to 10.0.0.7:5432 failed", "connect to # failed"),
    ("fe80::1 and 2001:db8::8a2e:370:7334 refuse", "# and # refuse"),
    ("aa:bb:cc:dd:ee:ff is unknown", "# is unknown"),
    ("std::bad_alloc", "std::bad_alloc"),
    ("HTTP 503 from https://api.example.com/v1/x?id=7: try again in 12ms",
     "HTTP 503 from <url>: try again in #"),
    ("HTTP/1.1 429", "HTTP/1.1 429"),
    ("status code: 404, 12 left", "status code: 404, # left"),
    ("Client error '404 Not Found' for url 'https://example.com/u/17'\nFor more information check: "
     "https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/404",
     "Client error '404 Not Found' for url '…' For more information check: <url>"),
    ("550 5.1.1 <ada@example.com>: Recipient address rejected", "# <<email>>: Recipient address rejected"),
    ("(421, b'4.3.2 Try again')", "(#, '…')"),
    ('duplicate key value violates unique constraint "users_pkey"\nDETAIL:  Key (id)=(17) already exists.',
     "duplicate key value violates unique constraint '…' DETAIL: Key (id)=(#) already exists."),
    ("execution reverted: 0x08c379a0000000000000000000000000", "execution reverted: #"),
    ("insufficient funds for gas * price + value: balance 12, tx cost 34000000000",
     "insufficient funds for gas * price + value: balance #, tx cost #"),
    ("<Session object at 0x7f8a1c2d3e4f> is closed", "<Session object at #> is closed"),
    ("rows [1, 2, 3] and [4] of ['a', 'b']", "rows [#] and [#] of ['…']"),
    ("{'id': 3, 'name': 'x'}", "{'…': #, '…': '…'}"),
    ("2024-01-02T10:00:00.123+00:00 is past", "# is past"),
    ("2024-01-02 10:00:00 is past", "# is past"),
    ("between 10:00 and 17.5 %, -3 or 1e-5", "between # and # %, # or #"),
    ("1,234,567.89 is too much", "# is too much"),
    ("it's 5 o'clock, isn't 'it's'", "it's # o'clock, isn't '…'"),
    ("say “hello”, «bonjour» or `salut`", "say '…' or '…'"),
    ('a "b\\"c" d', "a '…' d"),
    ("an 'open end of 17", "an 'open end of #"),
    ("  two\n\tlines  ", "two lines"),
    ("", ""),
    ("\ud800 3", "\\#"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "masked"), MESSAGES, ids=[text[:30] for text, _ in MESSAGES])
def test_messages_lose_their_data(message: str, masked: str) -> None:
    assert mask(message) == masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "make",
    [
        lambda n: f"no user {n}",
        lambda n: f"no user {n:x}-{n * 7:x}",
        lambda n: f"user_{n:08x} of {n}.example",
        lambda n: f"wallet 0x{n * 10**40:040x} has {n / 7} ETH",
        lambda n: f"{{'id': {n}, 'tags': {['t'] * (n % 5 + 1)}}}",
        lambda n: f"at 2024-{n % 12 + 1:02}-{n % 28 + 1:02} {n % 24:02}:00:00",
        lambda n: f"10.0.{n % 256}.{n % 100} said {n!r} times 'x{'y' * (n % 40 * 40)}'",
        lambda n: f"{Decimal(n) / 10} of {[n] * (n % 4 + 1)}",
    ],
)
def test_messages_of_one_bug_are_one(make: Callable[[int], str]) -> None:
    assert len({mask(make(n)) for n in range(1, 2000, 3)}) == 1


def test_names_from_the_code_tell_bugs_apart() -> None:
    text = "'NoneType' object has no attribute 'name', not '17' or 'a b' or 'len()'"
    assert mask(text, names=True) == "'NoneType' object has no attribute 'name', not '…' or '…' or 'len()'"
    causes = set()
    for wrong in ("None.name", "None.address", "unknown", "len(3)", "'1' + 1", "1 + '1'"):
        with pytest.raises((AttributeError, NameError, TypeError)) as raised:
            eval(wrong)
        causes.add(cause_of(raised.value, "t", "f").id)
    assert len(causes) == 6


@pytest.mark.parametrize("text", ["'" * 1000, "a" * 5000, "'a" * 500, '"\\' * 500, "a-" * 500, "/a" * 500, "ab:" * 400])
def test_long_messages_are_cut(text: str) -> None:
    assert len(cause_of(ValueError(text + "7"), "t", "f").message) <= KEPT


# ---------------------------------------------------------------------- place


def module(name: str, text: str, file: str) -> Any:
    """Load a module as if it stood in that file."""
    made = ModuleType(name)
    exec(compile(text, file, "exec"), vars(made))
    linecache.clearcache()
    return made


def failure(call: Callable[..., Any], *args: Any) -> BaseException:
    with pytest.raises(BaseException, match=r"(?s).*") as raised:
        call(*args)
    assert raised.value.__traceback__ is not None
    return raised.value.with_traceback(raised.value.__traceback__.tb_next)


SHOP = "def ship(n):\n    return check(n)\n\ndef check(n):\n    raise ValueError(f'no order {n}')\n"


def test_the_place_is_the_innermost_function_of_the_users_code() -> None:
    cause = cause_of(failure(module("shop.orders", SHOP, "/app/shop/orders.py").ship, 17), "email", "ship")
    assert cause[1:] == ("ValueError", "shop.orders:check", "no order #")
    assert re.fullmatch("[0-9a-f]{10}", cause.id)


def test_an_edit_above_and_another_folder_keep_the_cause() -> None:
    one = failure(module("shop.orders", SHOP, "/app/shop/orders.py").ship, 17)
    two = failure(module("shop.orders", "import os\n\n\n" + SHOP, "/srv/v2/shop/orders.py").ship, 4711)
    assert cause_of(one, "email", "ship") == cause_of(two, "email", "ship")


def test_family_type_place_and_message_make_the_cause() -> None:
    def cause(text: str, family: str = "email") -> str:
        return cause_of(failure(module("shop", text, "/app/shop.py").ship, 17), family, "ship").id

    others = {
        cause(SHOP),
        cause(SHOP, "image"),
        cause(SHOP.replace("ValueError", "KeyError")),
        cause(SHOP.replace("check", "verify")),
        cause(SHOP.replace("no order", "two orders")),
    }
    assert len(others) == 5


def test_frames_of_libraries_are_skipped() -> None:
    def handler() -> None:
        json.loads("{")

    assert cause_of(failure(handler), "t", "f").place.endswith(":test_frames_of_libraries_are_skipped.<locals>.handler")
    installed = module("lib.core", SHOP, "/venv/lib/python3.12/site-packages/lib/core.py")
    ours = module("shop", "def run(call):\n    return call(1)\n", "/app/shop.py")
    assert cause_of(failure(ours.run, installed.ship), "t", "f").place == "shop:run"
    typed = module("daemon.x", SHOP, "/app/daemon/x.py")
    assert cause_of(failure(ours.run, typed.ship), "t", "f").place == "shop:run"


def test_a_family_that_is_installed_as_a_package_is_the_users_code() -> None:
    installed = module("shop.tasks", SHOP, "/venv/lib/python3.12/site-packages/shop/tasks.py")
    error = failure(installed.ship, 1)
    assert cause_of(error, "t", "ship", "shop.worker").place == "shop.tasks:check"


def test_without_a_frame_of_the_users_the_place_is_the_function() -> None:
    refused = failure(codec.check_size, 2, 1, "result")
    assert isinstance(refused, TooLarge)
    assert cause_of(refused, "t", "report").place == "report"
    assert cause_of(Unreadable("what is it"), "t", "").place == ""
    crashed = [cause_of(JobFailed("WorkerCrashed", f"its worker died {n} times"), "t", "f") for n in (3, 4)]
    assert crashed[0] == crashed[1]
    assert crashed[0][1:] == ("WorkerCrashed", "f", "its worker died # times")


def test_comprehensions_and_generators_have_no_place_of_their_own() -> None:
    text = "def ship(n):\n    return [list(1 / 0 for _ in 'a') for _ in 'a']\n"
    assert cause_of(failure(module("shop", text, "/app/shop.py").ship, 1), "t", "f").place == "shop:ship"


def test_an_endless_recursion_has_one_place() -> None:
    text = "def even(n):\n    return odd(n)\n\ndef odd(n):\n    return even(n)\n\ndef ship(n):\n    return even(n)\n"
    shop = module("shop", text, "/app/shop.py")
    assert cause_of(failure(shop.ship, 1), "t", "f").place == "shop:ship"


async def test_a_timeout_is_where_it_hung() -> None:
    shop = module("shop", "async def ship(event):\n    await event.wait()\n", "/app/shop.py")
    task = asyncio.create_task(shop.ship(asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    error = TimeoutError("timed out after 0.5 s").with_traceback(raised.value.__traceback__)
    assert cause_of(error, "t", "f")[1:] == ("TimeoutError", "shop:ship", "timed out after # s")


def test_of_a_group_of_errors_the_first_counts() -> None:
    inner = failure(module("shop", SHOP, "/app/shop.py").ship, 17)
    group = ExceptionGroup("two of 3", [ExceptionGroup("one", [inner]), KeyError("x")])
    assert cause_of(group, "t", "f")[1:] == ("ExceptionGroup", "shop:check", "ValueError: no order #")


# ---------------------------------------------------------------------- odd errors


class Address(BaseModel):
    street: str
    number: int


class Customer(BaseModel):
    addresses: list[Address]
    balance: dict[str, int] = {}


def test_a_validation_tells_what_is_wrong_and_nothing_of_what_was_given() -> None:
    def cause(**given: Any) -> Cause:
        return cause_of(failure(lambda: Customer(**given)), "t", "f")

    one = cause(addresses=[{"street": "Main", "number": "secret"}])
    assert one.type == "ValidationError"
    assert one.message == "Customer: addresses.#.number: int_parsing"
    good = {"street": "Main", "number": 1}
    assert cause(addresses=[good, {"street": "Side", "number": "other"}]) == one
    assert cause().message == "Customer: addresses: missing"
    assert cause(addresses=[{}]).message == "Customer: addresses.#.street: missing; addresses.#.number: missing"


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_errors_that_cannot_be_read_have_a_cause() -> None:
    assert cause_of(Odd(), "t", "f")[1:] == ("Odd", "f", "its text cannot be read")
    for error in (
        JobFailed("Strange\ud800\n", "\ud800\n"),
        JobFailed("", ""),
        BaseExceptionGroup("g", [KeyboardInterrupt()]),
    ):
        line = cause_of(error, "t", "f").line("f")
        cause, function, described = line.decode().split("\n")
        assert re.fullmatch("[0-9a-f]{10}", cause)
        assert function == "f"
        assert json.loads(described).keys() == {"type", "place", "message"}


def test_a_failure_by_a_child_does_not_name_the_child() -> None:
    texts = ("shop:tea failed: ValueError: no 17", "shop:salt failed: ValueError: no 4711")
    one, two = (cause_of(JobFailed("ChildFailed", text), "t", "f") for text in texts)
    assert one == two
    assert one[1:] == ("ChildFailed", "f", "failed: ValueError: no #")


def test_the_cause_is_not_that_of_where_it_was_raised_from() -> None:
    def handler() -> None:
        try:
            json.loads("{")
        except ValueError as error:
            raise LookupError("no settings") from error

    cause = cause_of(failure(handler), "t", "f")
    assert (cause.type, cause.message) == ("LookupError", "no settings")
