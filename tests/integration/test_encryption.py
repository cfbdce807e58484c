"""Encrypted families and marked fields from the producer to the result, and what happens without a key."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from daemon.broker import Broker
from daemon.causes import cause_of
from daemon.codec import TRACEBACK_LIMIT
from daemon.context import JobContext
from daemon.control import Control
from daemon.encryption import MASK, KeyRing, generate_key
from daemon.errors import ConfigurationError, InClear, InvalidJob, JobFailed, KeyMissing, PermanentError
from daemon.events import EventReader
from daemon.family import Family, Fixed, crontab, func, load_family
from daemon.flows import node
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.pages import JobFilter
from daemon.payload import Payload, PayloadModel
from daemon.producer import Producer
from daemon.reencryption import reencrypt
from daemon.schedules import Schedules
from daemon.scheduling.ticks import Ticks
from daemon.search.indexer import Indexer
from daemon.secret import Secret, SecretValue
from tests.engine import eventually, in_state, make_family, run_burst, working
from tests.integration.vault_family import Opened, OpenVault, Pick, WorkerSettings

OLD, NEW = generate_key("old"), generate_key("new")
RING = KeyRing.parse(NEW)
VAULT = FamilyKeys.of("vault")


class Receipt(PayloadModel):
    number: int
    code: Secret[str]


class Charge(Payload, family="shop", returns=Receipt):
    card: Secret[str]
    amount: int = 1


async def charge(ctx: JobContext, job: Charge) -> Receipt:
    assert job.card == "canary-card"
    return Receipt(number=job.amount, code="canary-code")


@pytest.fixture
def vault() -> Family:
    return load_family(WorkerSettings)


@pytest.fixture
def shop() -> Family:
    return make_family("shop", charge)


@pytest.fixture
async def sealing(producer: Producer) -> Producer:
    """The producer with keys."""
    producer.keyring = RING
    return producer


async def everything(redis: Any) -> bytes:
    """Every key and every value of the server."""
    found = []
    for key in await redis.keys("*"):
        kind = await redis.type(key)
        if kind == b"none":
            continue  # it has ended meanwhile
        read = {
            b"string": lambda key: redis.get(key),
            b"hash": lambda key: redis.hgetall(key),
            b"zset": lambda key: redis.zrange(key, 0, -1),
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"set": lambda key: redis.smembers(key),
            b"stream": lambda key: redis.xrange(key),
        }[kind]
        found.append(f"{key!r} {await read(key)!r}".encode())
    return b"\n".join(found)


async def test_a_job_of_an_encrypted_family(redis_url: str, sealing: Producer, vault: Family) -> None:
    job = await sealing.enqueue(OpenVault(text="canary", pin="canary-pin"), tags=["vip"], priority=3)
    assert b"canary" not in await everything(sealing.redis)
    async with working(redis_url, vault, keyring=RING):
        assert await job.result(30) == Opened(text="canary in a result", pin="canary-pin")
    assert b"canary" not in await everything(sealing.redis)
    info = await job.info()
    assert (info.payload, info.result) == (MASK, MASK)
    assert await job.result(reveal=False) == MASK
    assert [line.text for line in (await job.logs()).lines] == [MASK, MASK]
    assert [line.text for line in (await job.logs(reveal=True)).lines] == ["canary in a line"] * 2
    shown = await job.info(reveal=True)
    assert shown.payload == {"text": "canary", "pin": "canary-pin", "fail": False}
    assert shown.result == {"text": "canary in a result", "pin": "canary-pin"}


async def test_a_dead_letter_keeps_everything_encrypted(redis_url: str, sealing: Producer, vault: Family) -> None:
    job = await sealing.enqueue(OpenVault(text="canary", pin="canary-pin", fail=True), tags=["vip"])
    await run_burst(redis_url, vault, keyring=RING)
    assert b"canary" not in await everything(sealing.redis)
    info, shown = await job.info(), await job.info(reveal=True)
    assert [(line["type"], line["message"]) for line in info.history] == [("ValueError", MASK)] * 2
    assert info.error == {"type": "ValueError", "message": MASK, "traceback": "", "reason": "tries"}
    assert shown.error is not None
    assert shown.error["message"] == "canary in an error"
    assert "vault_family.py" in shown.error["traceback"]
    assert len(shown.error["traceback"]) <= TRACEBACK_LIMIT
    assert [line["message"] for line in shown.history] == ["canary in an error"] * 2
    with pytest.raises(JobFailed, match="canary in an error"):
        await job.result(30)
    with pytest.raises(JobFailed) as caught:
        await job.result(60, reveal=False)
    assert caught.value.message == MASK
    listed = await Inspector(sealing.redis, ["vault"]).jobs(
        "vault", "failed", where=JobFilter(error="ValueError", tag="vip")
    )
    assert [found.id for found in listed] == [job.id]
    cause = cause_of(ValueError("another"), "vault", "open_vault", hidden=True)
    assert cause.message == ""
    (group,) = await sealing.redis.hvals(VAULT.key("causes"))
    assert b'"type":"ValueError"' in group
    assert b'vault_family:open_vault","message":""' in group
    # The same record runs again.
    assert await Control(sealing.redis, ["vault"]).retry([job.id]) == {job.id: "retried"}
    await run_burst(redis_url, vault, keyring=RING)
    assert (await job.info()).state is JobState.FAILED


async def test_notes_are_shown_while_it_runs(redis_url: str, sealing: Producer) -> None:
    async def slow(ctx: JobContext) -> None:
        await ctx.progress(10, "canary")
        await in_state(job, JobState.WAITING)

    job = await sealing.enqueue("slow", [], family="t")
    async with working(redis_url, make_family("t", slow, encrypted=True), keyring=RING):
        info = await eventually(lambda: _with_note(job))
        assert (info.progress, info.note) == (10, MASK)
        assert (await job.info(reveal=True)).note == "canary"
        assert b"canary" not in await everything(sealing.redis)


async def _with_note(job: Any) -> Any:
    info = await job.info()
    return info if info.note else None


async def test_logs_tell_types_and_places_but_no_texts(
    redis_url: str, sealing: Producer, vault: Family, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await sealing.enqueue_many([OpenVault(text="canary", pin="canary-pin", fail=True)])
    await run_burst(redis_url, vault, keyring=RING)
    assert "ValueError" in caplog.text
    assert "vault_family.py:" in caplog.text
    assert "opening OpenVault(text='**********', pin='**********'" in caplog.text  # a handler's own line
    assert "canary" not in caplog.text


# ---------------------------------------------------------------- producers


async def test_nobody_hands_over_in_clear(redis_url: str, producer: Producer, vault: Family) -> None:
    async with working(redis_url, vault, keyring=RING):
        pass
    with pytest.raises(InClear, match="the family of pick is encrypted"):
        await producer.enqueue("pick", {"text": "canary"}, family="vault")
    with pytest.raises(InClear):
        await producer.enqueue_many("pick", [{"text": "canary"}] * 2500, family="vault")
    with pytest.raises(InvalidJob, match="no key is set"):
        await producer.enqueue(Pick(text="canary"))
    assert await producer.redis.zcard(VAULT.queue) == 0
    async with Producer.connect(redis_url, keyring=RING) as knowing:
        job = await knowing.enqueue("pick", {"text": "canary"}, family="vault", job_id="mine")
        many = await knowing.enqueue_many("pick", [{"text": "canary"}] * 1200, family="vault")
        assert (job.id, job.created, all(one.created for one in many)) == ("vault:mine", True, True)
        assert b"canary" not in await everything(knowing.redis)
        await run_burst(redis_url, vault, keyring=RING)
        assert await many[-1].result(30) == "canary"


async def test_the_result_of_a_job_that_was_encrypted_anew_comes_unasked_as_any_other(
    redis_url: str, sealing: Producer, vault: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.producing.replies.REMIND_SECONDS", 3600.0)
    async with working(redis_url, vault, keyring=RING):
        for job in await sealing.enqueue_many([Pick(text="one"), Pick(text="two")]):
            await job.result(30)
        # Two waits: the family refuses the first call, and the second is told to send the result.
        job = await sealing.enqueue("pick", {"text": "three"}, family="vault")
        assert await job.result(30) == "three"


async def test_half_of_a_call_was_encrypted_already(redis_url: str, sealing: Producer, vault: Family) -> None:
    await sealing.redis.hset(VAULT.key("conf"), "encrypted", "1")
    each: list[Any] = [((Pick(text=f"canary {n}"), None), {}) for n in range(1100)]
    each += [(("pick", {"text": f"canary {n}"}), {}) for n in range(1100, 1200)]
    jobs = await sealing.enqueue_each(each, family="vault")
    assert all(job.created for job in jobs)
    assert b"canary" not in await everything(sealing.redis)
    assert await sealing.redis.zcard(VAULT.queue) == 1200


async def test_what_came_in_clear_before_the_first_worker_is_run_and_told(
    redis_url: str, sealing: Producer, vault: Family, caplog: pytest.LogCaptureFixture
) -> None:
    job = await sealing.enqueue("pick", {"text": "canary"}, family="vault")
    await run_burst(redis_url, vault, keyring=RING)
    assert "came in clear" in caplog.text
    assert await job.result(30) == "canary"
    assert (await job.info()).result == MASK


async def test_in_clear_again(redis_url: str, producer: Producer) -> None:
    async def work(ctx: JobContext, text: str) -> str:
        return text

    async with working(redis_url, make_family("t", work, encrypted=True), keyring=RING):
        pass
    with pytest.raises(InClear):
        await producer.enqueue("work", ["x"], family="t")
    await Control(producer.redis, ["t"]).allow_clear("t")
    job = await producer.enqueue("work", ["x"], family="t")
    await run_burst(redis_url, make_family("t", work))
    assert await job.result(30) == "x"


async def test_dedup_keys_are_hashed_and_a_repeat_gets_its_payload_there(
    redis_url: str, sealing: Producer, vault: Family
) -> None:
    first = await sealing.enqueue(Pick(text="canary"), delay=600)
    again = await sealing.enqueue(Pick(text="canary"), delay=600)
    assert (again.id, again.created) == (first.id, False)
    assert b"canary" not in await everything(sealing.redis)
    for mode in ("replace", "debounce"):
        options: Any = {"dedup_key": "k", "dedup_mode": mode, "delay": 600}
        kept = await sealing.enqueue("pick", {"text": f"canary {mode}"}, family="vault", **options)
        await sealing.redis.hset(VAULT.key("conf"), "encrypted", "1")
        other = await sealing.enqueue("pick", {"text": f"canary again {mode}"}, family="vault", **options)
        if mode == "replace":  # the first was still handed over in clear, so its key was, too
            assert other.created
            kept = other
            other = await sealing.enqueue("pick", {"text": f"canary again {mode}"}, family="vault", **options)
        assert (other.id, other.created, other.replaced) == (kept.id, False, True)
        assert (await kept.info(reveal=True)).payload == {"text": f"canary again {mode}"}
        await Control(sealing.redis, ["vault"]).remove([kept.id])


async def test_the_job_with_the_key_ends_while_the_payload_is_encrypted_for_it(
    redis_url: str, sealing: Producer, vault: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sealing.redis.hset(VAULT.key("conf"), "encrypted", "1")
    options: Any = {"dedup_key": "k", "dedup_mode": "replace", "family": "vault"}
    kept = await sealing.enqueue("pick", {"text": "one"}, delay=600, **options)
    broker = sealing.broker("vault")
    enqueue, calls = broker.enqueue, []

    async def slow(jobs: Any, *, resend: bool = False, **how: Any) -> Any:
        calls.append(jobs[0].id)
        if len(calls) == 2:
            assert await Control(sealing.redis, ["vault"]).abort([kept.id]) == {kept.id: "aborted"}
        return await enqueue(jobs, resend=resend, **how)

    monkeypatch.setattr(broker, "enqueue", slow)
    job = await sealing.enqueue("pick", {"text": "two"}, **options)
    assert job.created
    assert job.id != kept.id
    await run_burst(redis_url, vault, keyring=RING)
    assert await job.result(30) == "two"


# ---------------------------------------------------------------- workers


async def test_wrong_settings_are_told_at_the_start(redis_url: str, vault: Family) -> None:
    with pytest.raises(ConfigurationError, match="family 'vault' is encrypted and there is no key"):
        await run_burst(redis_url, vault)

    async def pick(ctx: JobContext, job: Pick) -> None: ...

    with pytest.raises(ConfigurationError, match="'pick' is declared encrypted=True: set encrypted = True"):
        await run_burst(redis_url, make_family("vault", pick), keyring=RING)


@pytest.mark.parametrize("lacking", [OLD, generate_key("new")], ids=["another id", "another key"])
async def test_without_its_key_a_job_is_parked_and_runs_where_it_is(
    redis_url: str, sealing: Producer, vault: Family, lacking: str
) -> None:
    job = await sealing.enqueue(Pick(text="canary"))
    async with working(redis_url, vault, keyring=KeyRing.parse(lacking)):
        info = await in_state(job, JobState.PARKED)
        assert info.note is not None
        assert "is encrypted with the key new " in info.note
        assert "parked" in str(await Inspector(sealing.redis, ["vault"]).explain(job.id))
        async with working(redis_url, vault, keyring=RING):
            assert await job.result(30) == "canary"
    assert (await job.info()).tries == 1


async def test_a_receipt_under_a_missing_key_parks_the_job_too(redis_url: str, sealing: Producer) -> None:
    async def steps(ctx: JobContext) -> Any:
        if ctx.job_try == 1:
            await ctx.once("one", lambda: "canary")
            raise ValueError
        return await ctx.once("one", lambda: "twice")

    family = make_family("t", steps, encrypted=True, backoff=Fixed(0.05))
    sealing.keyring = both = KeyRing.parse(f"{NEW},{OLD}")
    job = await sealing.enqueue("steps", [], family="t")
    ring = KeyRing.parse(f"{OLD},{NEW}")
    await run_burst(redis_url, family, keyring=ring, max_burst_jobs=1)
    assert (await job.info()).tries == 1
    async with working(redis_url, family, keyring=RING):
        await in_state(job, JobState.PARKED)
    async with working(redis_url, family, keyring=both):
        assert await job.result(30) == "canary"


async def test_what_was_moved_to_another_job_is_a_dead_letter(redis_url: str, sealing: Producer, vault: Family) -> None:
    one = await sealing.enqueue(Pick(text="one"), job_id="one")
    two = await sealing.enqueue(Pick(text="two"), job_id="two")
    await sealing.redis.set("arq:job:" + two.job_id, await sealing.redis.get("arq:job:" + one.job_id))
    await run_burst(redis_url, vault, keyring=RING)
    assert await one.result(30) == "one"
    with pytest.raises(JobFailed, match="belongs to another job") as caught:
        await two.result(30)
    assert caught.value.reason == "unreadable"


async def test_aborted_and_expired_jobs_show_nothing(redis_url: str, sealing: Producer, vault: Family) -> None:
    job = await sealing.enqueue(Pick(text="canary"), delay=60)
    assert await job.abort()
    late = await sealing.enqueue(Pick(text="canary late"), expires=0.001)
    await run_burst(redis_url, vault, keyring=RING)
    for ended, state in ((job, JobState.ABORTED), (late, JobState.EXPIRED)):
        info = await ended.info()
        assert (info.state, info.payload) == (state, MASK)
    assert (await job.info(reveal=True)).payload == {"text": "canary"}
    assert b"canary" not in await everything(sealing.redis)


async def test_what_cannot_be_kept_of_an_encrypted_job_is_not_told_either(
    redis_url: str, sealing: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    async def bad(ctx: JobContext, text: str) -> None:
        raise PermanentError(f"{text} in an error")

    await sealing.redis.hset(FamilyKeys.of("t").key("conf"), "encrypted", "1")
    job = await sealing.enqueue("bad", ["canary"], family="t")
    await run_burst(redis_url, make_family("t", bad, encrypted=True), keyring=RING)
    assert (await job.info()).error == {
        "type": "PermanentError",
        "message": MASK,
        "traceback": "",
        "reason": "permanent",
    }
    assert "canary" not in caplog.text
    with pytest.raises(KeyMissing, match="new"):
        await Inspector(sealing.redis, ["t"]).job(job.id, reveal=True)


# ---------------------------------------------------------------- marked fields


async def test_marked_fields(redis_url: str, sealing: Producer, shop: Family) -> None:
    job = await sealing.enqueue(Charge(card="canary-card", amount=7))
    assert b'"amount":7' in await everything(sealing.redis)
    await run_burst(redis_url, shop, keyring=RING)
    assert b"canary" not in await everything(sealing.redis)
    assert await job.result(30) == Receipt(number=7, code="canary-code")
    info = await job.info()
    assert (info.payload, info.result) == ({"card": MASK, "amount": 7}, {"number": 7, "code": MASK})
    shown = await job.info(reveal=True)
    assert (shown.payload["card"], shown.result["code"]) == ("canary-card", "canary-code")
    assert await sealing.job(job.id).result(30) == {"number": 7, "code": "canary-code"}


async def test_a_marked_field_never_travels_in_clear(redis_url: str, producer: Producer, shop: Family) -> None:
    with pytest.raises(InvalidJob, match="no key is set"):
        await producer.enqueue(Charge(card="canary-card"))
    with pytest.raises(InvalidJob, match="ARQD_ENCRYPTION_KEYS"):
        await producer.enqueue("charge", {"card": SecretValue("canary-card")}, family="shop")
    async with working(redis_url, shop, keyring=RING):
        pass
    producer.keyring = RING
    with pytest.raises(InClear, match="charge has secret fields"):
        await producer.enqueue("charge", {"card": "canary-card"}, family="shop")
    assert b"canary" not in await everything(producer.redis)
    job = await producer.enqueue("charge", {"card": SecretValue("canary-card")}, family="shop")
    await run_burst(redis_url, shop, keyring=RING)
    assert await job.result(30) == {"number": 1, "code": "canary-code"}


async def test_a_marked_field_without_its_key_is_parked(
    redis_url: str, sealing: Producer, shop: Family, caplog: pytest.LogCaptureFixture
) -> None:
    job = await sealing.enqueue(Charge(card="canary-card"))
    async with working(redis_url, shop):
        await in_state(job, JobState.PARKED)
    assert "no key is set, so jobs of charge will be parked" in caplog.text
    await run_burst(redis_url, shop, keyring=RING)
    assert (await job.result(30)).number == 1


async def test_a_repeat_with_marked_fields_replaces_the_payload(
    redis_url: str, sealing: Producer, shop: Family
) -> None:
    options: Any = {"dedup_key": "order-1", "dedup_mode": "replace"}
    kept = await sealing.enqueue(Charge(card="another"), **options)
    job = await sealing.enqueue(Charge(card="canary-card", amount=2), **options)
    assert (job.id, job.replaced) == (kept.id, True)
    await run_burst(redis_url, shop, keyring=RING)
    assert await job.result(30) == Receipt(number=2, code="canary-code")


# ---------------------------------------------------------------- flows, events, schedules


class Sum(Payload, family="sums"):
    pass


async def total(ctx: JobContext, job: Sum) -> str:
    children = await ctx.children()
    return " ".join(str(child.result or (child.error or {})["message"]) for child in children.values())


async def test_children_in_an_encrypted_family(redis_url: str, sealing: Producer, vault: Family) -> None:
    async with working(redis_url, vault, keyring=RING):
        pass
    # By its class, and by name; a parent elsewhere that reads what they gave.
    children = [
        node(Pick(text="canary one"), dedup_key=""),
        node("pick", {"text": "canary two"}, family="vault"),
        node(OpenVault(text="canary", pin="canary-pin", fail=True), rule="ignore"),
    ]
    sums = make_family("sums", func(total, name="sum"))
    flow = node(Sum(), children=children)
    with pytest.raises(InvalidJob, match="no key is set"):
        async with Producer.connect(redis_url) as keyless:
            await keyless.enqueue_flow(flow)
    with pytest.raises(InClear, match="the family of pick is encrypted"):
        async with Producer.connect(redis_url) as keyless:
            await keyless.enqueue_flow(node(Sum(), children=children[1:2]))
    job = await sealing.enqueue_flow(flow)
    assert b"canary" not in await everything(sealing.redis)
    async with working(redis_url, vault, sums, keyring=RING):
        assert await job.result(60) == "canary one canary two canary in an error"
    # The parent is not encrypted: what it gave is its own business.
    seen = (await everything(sealing.redis)).replace(b"canary one canary two canary in an error", b"")
    assert b"canary" not in seen
    tree = await Inspector(sealing.redis, ["sums", "vault"]).flow(job.id)
    assert "canary" not in repr(tree)


async def test_a_parent_fails_by_an_encrypted_child_without_its_text(
    redis_url: str, sealing: Producer, vault: Family
) -> None:
    failing = node(OpenVault(text="canary", pin="canary-pin", fail=True))
    job = await sealing.enqueue_flow(node(Sum(), children=[failing]))
    async with working(redis_url, vault, make_family("sums", func(total, name="sum")), keyring=RING):
        with pytest.raises(JobFailed) as caught:
            await job.result(60)
    assert f"ValueError: {MASK}" in str(caught.value)
    assert b"canary" not in await everything(sealing.redis)


async def test_a_large_flow_is_staged_encrypted(redis_url: str, sealing: Producer, vault: Family) -> None:
    children = [node(Pick(text=f"canary {n}"), dedup_key="") for n in range(1100)]
    job = await sealing.enqueue_flow(node(Sum(), children=children))
    assert b"canary" not in await everything(sealing.redis)
    async with working(redis_url, vault, make_family("sums", func(total, name="sum")), keyring=RING):
        assert (await job.result(30)).startswith("canary 0 canary 1 ")


async def test_events_tell_no_texts(redis_url: str, sealing: Producer, vault: Family) -> None:
    job = await sealing.enqueue(OpenVault(text="canary", pin="canary-pin", fail=True))
    await run_burst(redis_url, vault, keyring=RING)
    events = [event async for event in EventReader(sealing.redis, None, ["vault"], "start").present()]
    assert [event.kind for event in events if event.id == job.id][-1] == "failed"
    told = [event.detail for event in events]
    assert f"50 {MASK}" in told
    assert f"ValueError: {MASK}" in told
    assert not any("canary" in detail for detail in told)


async def test_the_search_index_knows_nothing_that_is_encrypted(redis_url: str, sealing: Producer) -> None:
    family = load_family(type("Searched", (WorkerSettings,), {"search": "payload"}))
    job = await sealing.enqueue(OpenVault(text="canary", pin="canary-pin", fail=True), tags=["vip"])
    await run_burst(redis_url, family, keyring=RING)
    await Indexer(sealing.redis).catch_up()
    found = Inspector(sealing.redis, ["vault"])
    assert [one.id for one in await found.jobs("vault", "failed", where=JobFilter(text="vip valueerror"))] == [job.id]
    assert await found.jobs("vault", "failed", where=JobFilter(text="canary")) == []
    assert b"canary" not in await everything(sealing.redis)


async def test_schedules_of_an_encrypted_family_take_no_payload(
    redis_url: str, sealing: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    schedules, broker = Schedules(sealing.redis), Broker(sealing.redis, VAULT)
    await schedules.add("early", "pick", {"text": "a"}, family="vault", every=60)
    await sealing.redis.hset(VAULT.key("conf"), "encrypted", "1")
    for call in (("pick", {"text": "canary"}), (Pick(text="canary"), None), (Charge(card="canary"), None)):
        with pytest.raises(InvalidJob, match="keeps its payload in clear"):
            await schedules.add("night", *call, family="vault", every=60)
    with pytest.raises(InvalidJob, match="keeps its payload in clear"):
        await schedules.change("vault:early", payload={"text": "canary"})
    with pytest.raises(ConfigurationError, match="keeps its payload in clear"):
        await run_burst(redis_url, family_of_cron(["canary"]), keyring=RING)
    await run_burst(redis_url, family_of_cron(None), keyring=RING)
    await sealing.redis.hset(FamilyKeys.of("shop").key("conf"), "marked", "\tcharge\t")
    with pytest.raises(InvalidJob, match="keeps its payload in clear"):
        await schedules.add("night", "charge", {"card": "canary"}, family="shop", every=60)
    await schedules.add("night", "pick", family="vault", every=60)
    ticks = Ticks(Broker(sealing.redis, VAULT, 10 + max(map(int, (await due(broker)).values()))))
    rest = await ticks.make_due()
    assert rest is not None
    assert 0 < rest <= 60
    assert await sealing.redis.zcard(VAULT.queue) == 1
    assert "schedule vault:early makes no job: its family is encrypted" in caplog.text
    assert b"canary" not in await everything(sealing.redis)


async def due(broker: Broker) -> dict[bytes, float]:
    return dict(await broker.redis.zrange(VAULT.key("ticks"), 0, -1, withscores=True))


def family_of_cron(payload: Any) -> Family:
    async def pick(ctx: JobContext, text: str = "") -> None: ...

    jobs = [crontab("0 2 29 2 *", "pick", payload=payload)]
    return make_family("other", pick, encrypted=True, cron_jobs=jobs)


# ---------------------------------------------------------------- re-encryption


async def test_reencryption_leaves_nothing_under_the_old_key(redis_url: str, producer: Producer, vault: Family) -> None:
    producer.keyring = old = KeyRing.parse(OLD)
    await producer.redis.hset(VAULT.key("conf"), "encrypted", "1")
    dead = await producer.enqueue(OpenVault(text="canary", pin="canary-pin", fail=True))
    done = await producer.enqueue(OpenVault(text="canary", pin="canary-pin"))
    await run_burst(redis_url, vault, keyring=old)
    aborted = await producer.enqueue(Pick(text="gone"), delay=60)
    assert await aborted.abort()
    waiting = await producer.enqueue_many([Pick(text=f"canary {n}") for n in range(250)])
    delayed = await producer.enqueue(Pick(text="later"), delay=3600, expires=7200)
    marked = await producer.enqueue(Charge(card="canary-card"))
    parked = waiting[0]
    async with working(redis_url, vault, keyring=RING):
        await in_state(parked, JobState.PARKED)
    both = KeyRing.parse(f"{NEW},{OLD}")
    before = (await delayed.info()).expires_at
    found = await reencrypt(producer.redis, VAULT, both)
    # dead: record, result, receipts, history, logs; done: result, logs; aborted: result
    assert (found.changed, found.active, found.unreadable) == (5 + 2 + 1 + 250 + 1, 0, 0)
    assert (await reencrypt(producer.redis, VAULT, both)).changed == 0
    assert (await reencrypt(producer.redis, FamilyKeys.of("shop"), both)).changed == 1
    producer.keyring = RING
    assert (await delayed.info()).expires_at == before
    for job in (dead, done, aborted, delayed, marked):
        assert (await job.info(reveal=True)).payload
    assert [line.text for line in (await dead.logs(reveal=True)).lines] == ["canary in a line"] * 2
    await Control(producer.redis, ["vault"]).promote([delayed.id])
    await run_burst(redis_url, vault, keyring=RING)  # parked ones among them
    assert await parked.result(30) == "canary 0"
    assert await producer.redis.exists(VAULT.key("parked")) == 0
    assert await Control(producer.redis, ["vault"]).retry([dead.id]) == {dead.id: "retried"}
    await run_burst(redis_url, vault, keyring=RING)  # its receipts are read again


async def test_what_a_parent_keeps_is_reencrypted_too(redis_url: str, producer: Producer, vault: Family) -> None:
    producer.keyring = old = KeyRing.parse(OLD)
    children = [node(Pick(text="canary"), dedup_key=""), node(Pick(text="later"), dedup_key="", delay=3600, job_id="l")]
    job = await producer.enqueue_flow(node(Sum(), children=children))
    sums, both = FamilyKeys.of("sums"), KeyRing.parse(f"{NEW},{OLD}")
    async with working(redis_url, vault, keyring=old):
        await eventually(lambda: producer.redis.hlen(sums.key("children", job.job_id)))
    assert (await reencrypt(producer.redis, sums, both)).changed == 1
    assert (await reencrypt(producer.redis, VAULT, both)).changed == 2
    await Control(producer.redis, ["vault"]).promote(["vault:l"])
    async with working(redis_url, vault, make_family("sums", func(total, name="sum")), keyring=RING):
        assert await job.result(60) == "canary later"


async def test_reencryption_tells_what_it_cannot_read(producer: Producer) -> None:
    producer.keyring = KeyRing.parse(OLD)
    await producer.enqueue(Pick(text="canary"))
    found = await reencrypt(producer.redis, VAULT, RING)
    assert (found.changed, found.unreadable) == (0, 1)
    with pytest.raises(InvalidJob, match="no key is set"):
        await reencrypt(producer.redis, VAULT, KeyRing({}))
