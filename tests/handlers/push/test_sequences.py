"""Random sequences of what OneSignal does and what happens to the worker: one push, and told sent when it was."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.push.payloads import SendPush
from handlers.push.tasks import PushRefused
from tests.handlers.push.conftest import Phones
from tests.handlers.push.onesignal import WORDS
from tests.handlers.sequences import examples

#: What happens to the user's devices before a try.
DEVICES = st.sampled_from(["", "", "", "one is unknown", "none is subscribed", "all are well"])
numbers = itertools.count(1)


@pytest.mark.timeout(480)
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=6),
    steps=st.lists(st.tuples(DEVICES, st.booleans()), min_size=3, max_size=6),
)
async def test_a_push_is_sent_once(phones: Phones, words: list[str], steps: list[tuple[str, bool]]) -> None:
    """Each step: what happens to the devices, and whether the worker died in the try before."""
    user = f"user-{next(numbers)}"
    server, devices = phones.onesignal, [f"{user}-{name}" for name in ("phone", "tablet")]
    for device in devices:
        await phones.users.add_device(user, device)
    job = SendPush(user_id=user, title="Paid", message="It is paid.")
    server.script = list(words)
    server.unknown.clear()
    server.unsubscribed.clear()
    before = len(server.sent)
    tries = crashes = 0
    for happens, crashed in [*steps, ("in the end", False)]:
        if happens == "one is unknown":
            server.unknown = {devices[0]}
        elif happens == "none is subscribed":
            server.unsubscribed = set(devices)
        elif happens:
            server.unknown, server.unsubscribed = set(), set()
            for device in devices:
                await phones.users.add_device(user, device)
        if happens == "in the end":
            # Somebody sends the job back.
            server.script.clear()
            crashes = 0
        crashes += crashed
        run = await phones.run(job, f"{user}-job", tries=min(tries, 2), crashes=crashes)
        made = len(server.sent) - before
        assert made <= 1, (words, steps)
        if run.ending == "completed":
            assert (made == 1) == (not run.result.skipped), (words, steps)
            assert run.result.skipped or run.result.message_id
        elif isinstance(run.error, PushRefused):
            assert made == 0, (words, steps)
        tries += run.ending == "retried"
    assert (run.ending, made) == ("completed", 1), (words, steps)
