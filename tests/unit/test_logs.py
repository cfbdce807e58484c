"""Log lines: one JSON object each, every line of a job with its fields, nothing built when the level is off."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.broker import Claim
from daemon.context import JobContext, current_job
from daemon.errors import ConfigurationError
from daemon.keys import FamilyKeys
from daemon.logs import configure_logging
from daemon.running.dialect import Entry
from daemon.running.run import Run

JOB_ID = "0192f3a1c2d87e4b9a5d11223344aabb"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def in_job() -> Iterator[Callable[[], None]]:
    """Enter a job's context, as the executor does."""
    token = current_job.set(None)

    def enter() -> None:
        worker = cast(Any, SimpleNamespace(family=SimpleNamespace(name="email")))
        job_id = FamilyKeys.of("email").job_id(JOB_ID)
        claim = Claim(job_id.encode(), None, b"0", b"1", b"0", b"0")
        run = Run(claim, 1, job_id)
        run.entry, run.job_try = Entry("send_email", "", 0, 0, 0, "", b""), 2
        current_job.set(JobContext(worker, {}, run))

    yield enter
    current_job.reset(token)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


JOB_FIELDS = {"job_id": f"email:{JOB_ID}", "family": "email", "function": "send_email", "try": 2}


def test_a_line_is_one_json_object_with_the_fixed_fields() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("daemon.x").info("sent to %s\nfor Zoë", 3, extra={"duration": 0.25, "level": "fake"})
    [line] = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {"level": "INFO", "logger": "daemon.x", "message": "sent to 3\nfor Zoë", "duration": 0.25}


def test_every_line_of_a_job_carries_its_fields(in_job: Callable[[], None]) -> None:
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    logging.getLogger("daemon.worker").info("outside")
    in_job()
    logging.getLogger("handlers.email").info("ours")
    logging.getLogger("somebody.elses.library").debug("theirs", extra={"job_id": "theirs too"})
    logging.getLogger("arq.worker").warning("arq's")
    outside, *inside = lines(stream)
    assert not JOB_FIELDS.keys() & outside.keys()
    assert [line["message"] for line in inside] == ["ours", "theirs", "arq's"]
    assert [{name: line[name] for name in JOB_FIELDS} for line in inside] == [JOB_FIELDS] * 3


async def test_tasks_and_threads_a_job_starts_carry_its_fields(in_job: Callable[[], None]) -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)

    async def log() -> None:
        logging.getLogger("a").info("task")

    in_job()
    await asyncio.gather(log(), asyncio.to_thread(logging.getLogger("a").info, "thread"))
    assert {line["message"]: line["job_id"] for line in lines(stream)} == dict.fromkeys(
        ("task", "thread"), f"email:{JOB_ID}"
    )


def test_no_record_is_built_when_the_level_is_off(in_job: Callable[[], None]) -> None:
    stream, built = io.StringIO(), []
    factory = logging.getLogRecordFactory()

    def count(*args: Any, **kwargs: Any) -> logging.LogRecord:
        built.append(args)
        return factory(*args, **kwargs)

    configure_logging("WARNING", stream=stream)
    in_job()
    logging.setLogRecordFactory(count)
    try:
        for name in ("daemon.worker", "arq.worker", "uvicorn.error"):
            logging.getLogger(name).info("not wanted")
        assert built == []
        logging.getLogger("daemon.worker").warning("wanted")
    finally:
        logging.setLogRecordFactory(factory)
    assert len(built) == len(lines(stream)) == 1


def test_an_exception_is_text_in_one_line() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    try:
        raise ValueError("no such template")
    except ValueError:
        logging.getLogger("x").exception("failed", stack_info=True)
    [line] = lines(stream)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: no such template")
    assert "test_logs" in line["stack"]


def test_a_dict_and_values_json_does_not_know_are_logged() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("x").info({"message": "a dict", "size": 3}, extra={"thing": SimpleNamespace(a=1)})
    [line] = lines(stream)
    assert (line["message"], line["size"]) == ("a dict", 3)
    assert "namespace" in line["thing"]


def test_libraries_that_set_up_their_own_handlers_log_once_and_here() -> None:
    stream, own = io.StringIO(), io.StringIO()
    for name in ("arq", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.StreamHandler(own))
        logger.propagate = False
    configure_logging(stream=stream)
    logging.getLogger("arq.worker").info("one")
    logging.getLogger("uvicorn.error").info("two", extra={"color_message": "\x1b[36mtwo"})
    assert own.getvalue() == ""
    assert [line["message"] for line in lines(stream)] == ["one", "two"]
    assert "\\u001b" not in stream.getvalue()


def test_configuring_again_replaces_the_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(stream=second)
    logging.getLogger("x").info("once")
    assert (len(lines(first)), len(lines(second))) == (0, 1)


def test_text_for_people_names_the_job_shortly(in_job: Callable[[], None]) -> None:
    stream = io.StringIO()
    configure_logging(fmt="text", stream=stream)
    in_job()
    logging.getLogger("handlers.email").warning("sent", extra={"duration": 0.25})
    [line] = stream.getvalue().splitlines()
    assert line.endswith("WARNING handlers.email [email:…3344aabb send_email try 2] sent duration=0.25")
    assert JOB_ID not in line


def test_text_for_people_tells_each_part_of_an_extra() -> None:
    stream = io.StringIO()
    configure_logging(fmt="text", stream=stream)
    parts = {"actor": "ada", "detail": {"rate": "5/s", "group": None, "result": {"drained": 2}}, "empty": {}}
    logging.getLogger("arqd.audit").info("queue.drain t: done", extra={"audit": parts})
    [line] = stream.getvalue().splitlines()
    said = "audit.actor=ada audit.detail.rate=5/s audit.detail.result.drained=2"
    assert line.endswith(f"INFO    arqd.audit queue.drain t: done {said}")


def test_text_cannot_fake_a_line_or_steer_the_terminal() -> None:
    stream = io.StringIO()
    configure_logging(fmt="text", stream=stream)
    logging.getLogger("x").info("one\n12:00:00.000 ERROR x two\x1b[2J")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("one")
    assert second.startswith("    ")
    assert "\x1b" not in second


@pytest.mark.parametrize(("level", "fmt"), [("LOUD", "json"), ("INFO", "xml")])
def test_an_unknown_level_or_format_is_refused(level: str, fmt: Any) -> None:
    with pytest.raises(ConfigurationError, match="use "):
        configure_logging(level, fmt)
