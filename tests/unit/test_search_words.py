"""What of a job is found, and what a question asks for."""

from __future__ import annotations

import pytest

from daemon.errors import InvalidJob
from daemon.job import JobInfo, JobState
from daemon.search.words import LONGEST_WORD, MOST_WORDS, Question, words_in, words_of


def job(**facts: object) -> JobInfo:
    known: dict[str, object] = {"id": "email:Order-1234", "family": "email", "state": JobState.FAILED} | facts
    return JobInfo(**known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Connection RESET by peer", ["connection", "reset", "by", "peer"]),
        ("send_email ada@example.com", ["send", "email", "ada", "example", "com"]),
        ("550-5.1.1 <x>", ["550", "5", "1", "1", "x"]),
        ("Straße ÉTÉ ﬁne 東京", ["strasse", "été", "fine", "東京"]),
        ("e\u0301te\u0301", ["été"]),
        ("a" * 100, ["a" * LONGEST_WORD]),
        (" \n\t-_-", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert list(words_in(text)) == words


def test_a_job_is_found_by_id_function_tags_error_and_payload() -> None:
    error = {"type": "TimeoutError", "message": "no answer from mx1", "traceback": "File hidden", "reason": "tries"}
    payload = {"to": "ada@example.com", "list": [7, 2.5, True, None, {"deep": "Inside"}]}
    found = job(function="send_email", tags=["customer-7"], error=error, payload=payload)
    without = ["order", "1234", "send", "email", "customer", "7", "timeouterror", "no", "answer", "from", "mx1"]
    assert list(words_of(found, payload=False)) == without
    assert list(words_of(found, payload=True)) == [*without, "ada", "example", "com", "2", "5", "inside"]


def test_the_words_of_a_job_are_bounded_and_its_payload_comes_last() -> None:
    words = words_of(job(tags=["kept"], payload=[f"w{number}" for number in range(1000)]), payload=True)
    assert len(words) == MOST_WORDS
    assert "kept" in words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Timeout  timeout mx1", Question(("timeout", "mx1"))),
        ("email:order-12", Question(("order", "12"))),
        ("{email}:order-12", Question(("order", "12"))),
        ("other:order", Question(("other", "order"))),
        ("Order-1*", Question((), ("order-1",))),
        ("email:ORDER* reset", Question(("reset",), ("order",))),
    ],
)
def test_questions(text: str, expected: Question) -> None:
    assert Question.of(text, "email") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no word"),
        (" -- ", "no word"),
        ("*", "a star stands behind"),
        ("a b c d e f g h i", "at most 8 words"),
        ("x" * 401, "at most 400 characters"),
    ],
)
def test_questions_that_cannot_be_answered(text: str, told: str) -> None:
    with pytest.raises(InvalidJob, match=told):
        Question.of(text, "email")


@pytest.mark.parametrize(
    ("text", "fits"),
    [("order", True), ("order 1234", True), ("ord", False), ("ORD*", True), ("rder*", False), ("order* 1235", False)],
)
def test_a_job_fits_all_of_a_question(text: str, *, fits: bool) -> None:
    assert Question.of(text, "email").fits(job(), payload=True) is fits
