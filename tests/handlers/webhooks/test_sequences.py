"""Random sequences of what a receiver does: an event is told delivered when the receiver has said so, and only then."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.testing.handlers import run_handler
from handlers.webhooks.endpoints import Endpoints
from handlers.webhooks.payloads import endpoint_name
from handlers.webhooks.tasks import deliver_webhook
from handlers.webhooks.worker import WorkerSettings
from tests.handlers.receiver import Answer, Receiver
from tests.handlers.sequences import examples
from tests.handlers.webhooks.support import event

DONE = {"200": Answer(200), "204": Answer(204, b""), "twice": Answer(200, twice=True)}
NOT_DONE = {
    **{str(status): Answer(status) for status in (302, 400, 404, 410, 429, 500, 503)},
    "429 later": Answer(429, headers={"retry-after": "60"}),
    "503 later": Answer(503, headers={"retry-after": "60"}),
    "cut": Answer(cut="before"),
    "cut, taken": Answer(cut="after"),
}
ANSWERS = DONE | NOT_DONE
#: What the receiver does at a try, and whether a pause it asked for is over by then, and an operator has enabled it.
STEPS = st.tuples(st.sampled_from(sorted(ANSWERS)), st.booleans())
numbers = itertools.count(1)


@pytest.mark.timeout(480)
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=3, max_size=8))
async def test_what_is_told_delivered_was(
    receiver: Receiver, opened: dict[Any, Any], endpoints: Endpoints, steps: list[tuple[str, bool]]
) -> None:
    number = next(numbers)
    job = event(receiver, number, endpoint=f"{receiver.url}/{number}")
    name = endpoint_name(job.endpoint)
    receiver.requests.clear()
    receiver.taken.clear()
    stopped = False
    for turn, (word, goes_on) in enumerate([*steps, ("200", True)]):
        if stopped and goes_on:
            await endpoints.enable(name)
            stopped = False
        before = len(receiver.requests)
        receiver.answers = [ANSWERS[word]]
        run = await run_handler(
            deliver_webhook, job, settings=WorkerSettings, ctx=opened, job_id=f"job-{number}", tries=min(turn, 8)
        )
        asked = len(receiver.requests) - before
        assert asked == (0 if stopped else 1), steps
        # Whoever said 2xx has it, also the second time; nobody else's answer counts.
        assert (run.ending == "completed") == (asked == 1 and word in DONE), steps
        assert run.ending != "completed" or receiver.taken, steps
        if word == "410" or "later" in word:
            stopped = True
            assert run.ending == ("failed" if word == "410" else "told_to_wait") or not asked
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert {request.json()["data"]["n"] for request in receiver.requests} == {number}
    log = await endpoints.deliveries(name)
    assert len(log) == len(receiver.requests), "each try is in the log"
    assert sum(each.delivered for each in log) <= len(receiver.taken)
