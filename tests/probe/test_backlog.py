"""/backlog and /metrics: figures of a real Valkey, and what is said when it is away or frozen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from redis.asyncio import Redis
from starlette.applications import Starlette

from daemon.connecting.connections import connect
from daemon.metrics import FamilyMetrics
from daemon.probe.app import create_app
from tests.conftest import RedisServerFactory
from tests.probe.support import NOW, ValkeySource, document, facts, get, samples, write


@asynccontextmanager
async def probe(url: str, **options: Any) -> AsyncIterator[tuple[Starlette, Redis]]:
    async with aclosing(connect(url)) as redis:
        yield (
            create_app(
                ValkeySource(redis, "email", "media"), families=["email", "media"], clock=lambda: NOW, **options
            ),
            redis,
        )


EMAIL = {
    "family": "email",
    "backlog": 4,
    "active": 1,
    "delayed": 0,
    "load": 5,
    "oldest_age_seconds": 7.5,
    "drain_seconds": 2.0,
    "workers": 1,
    "slots": 10,
}


async def test_backlog_of_one_family_is_flat(redis_url: str) -> None:
    async with probe(redis_url) as (app, redis):
        await redis.rpush("waiting:email", *range(4))
        await redis.rpush("active:email", 1)
        answer = await get(app, "/backlog/email")
        assert (answer.status_code, answer.json()) == (200, EMAIL)
        assert answer.headers["content-type"] == "application/json"


async def test_backlog_of_all_adds_up(redis_url: str) -> None:
    async with probe(redis_url) as (app, redis):
        await redis.rpush("waiting:email", *range(4))
        await redis.rpush("active:email", 1)
        await redis.rpush("waiting:media", *range(20))
        answer = (await get(app, "/backlog")).json()
    families = answer.pop("families")
    assert families[0] == EMAIL
    assert families[1]["backlog"] == 20
    assert answer == {
        **EMAIL,
        "family": "*",
        "backlog": 24,
        "load": 25,
        "drain_seconds": 10.0,
        "workers": 2,
        "slots": 20,
    }


async def test_times_nobody_knows_stay_unknown(redis_url: str) -> None:
    async with probe(redis_url) as (app, _):
        answer = (await get(app, "/backlog")).json()
    assert (answer["load"], answer["oldest_age_seconds"]) == (0, None)


@pytest.mark.parametrize("path", ["/backlog/unknown", "/backlog/e%0Amail", "/nothing"])
async def test_what_is_not_there_is_404_problem_json(redis_url: str, path: str) -> None:
    async with probe(redis_url) as (app, _):
        answer = await get(app, path)
    assert (answer.status_code, answer.json()["status"]) == (404, 404)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_redis_away_is_503_and_no_figure_and_heals(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with probe(server.url) as (app, redis):
        assert (await get(app, "/backlog")).status_code == 200
        server.kill()
        for path in ("/backlog", "/backlog/email"):
            answer = await get(app, path)
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"].startswith("Redis cannot be reached")
            assert "backlog" not in answer.json()
        metrics = samples((await get(app, "/metrics")).text)
        assert metrics["arqd_redis_up",] == 0
        assert not [name for name, *_ in metrics if name.startswith("arqd_queue")]
        server.start()
        await redis.rpush("waiting:email", 1)
        assert (await get(app, "/backlog/email")).json()["backlog"] == 1
        assert samples((await get(app, "/metrics")).text)["arqd_redis_up",] == 1


async def test_a_frozen_redis_is_given_up_in_time(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    async with probe(server.url, redis_timeout=0.5) as (app, redis):
        await redis.rpush("waiting:media", *range(3))
        server.pause()
        answer = await get(app, "/backlog/media")
        assert (answer.status_code, answer.json()["detail"]) == (503, "Redis did not answer within 0.5 s")
        server.resume()
        # The late reply to the request given up must not be taken for this one's.
        async with asyncio.timeout(60):
            while (answer := await get(app, "/backlog/email")).status_code == 503:
                await asyncio.sleep(0.01)
        assert answer.json()["backlog"] == 0


async def test_metrics_of_queues_and_workers(redis_url: str, tmp_path: Path) -> None:
    metrics = FamilyMetrics(["send_email"])
    metrics.observe("send_email", "completed", 0.002, 0.2)
    metrics.observe("send_email", "completed", 0.002, 0.02)
    metrics.observe("send_email", "failed", 20_000, 9_999)
    path = write(tmp_path / "heartbeat.json", document(families={"email": facts(metrics)}))
    async with probe(redis_url, heartbeats=[path]) as (app, redis):
        await redis.rpush("waiting:email", *range(4))
        answer = await get(app, "/metrics")
    found = samples(answer.text)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert ("arqd_build_info", "0.1.0") in found
    assert found["arqd_redis_up",] == 1
    assert found["arqd_queue_jobs", "email", "waiting"] == 4
    assert found["arqd_queue_jobs", "media", "failed"] == 0
    assert found["arqd_queue_oldest_ready_age_seconds", "email"] == 7.5
    assert found["arqd_queue_oldest_ready_age_seconds", "media"] == 0
    assert found["arqd_queue_bytes", "email"] == 700
    assert found["arqd_queue_max_bytes", "email"] == 1000
    assert ("arqd_queue_bytes", "media") not in found
    assert found["arqd_worker_slots", "email"] == 10
    assert found["arqd_worker_slots_in_use", "email"] == 3
    assert found["arqd_worker_event_loop_lag_seconds",] == 0.002
    assert found["arqd_jobs_total", "email", "send_email", "completed"] == 2
    assert found["arqd_jobs_total", "email", "send_email", "retried"] == 0
    assert found["arqd_job_duration_seconds_bucket", "email", "send_email", "0.025"] == 1
    assert found["arqd_job_duration_seconds_bucket", "email", "send_email", "0.25"] == 2
    assert found["arqd_job_duration_seconds_bucket", "email", "send_email", "1800.0"] == 2
    assert found["arqd_job_duration_seconds_bucket", "email", "send_email", "+Inf"] == 3
    assert found["arqd_job_duration_seconds_count", "email", "send_email"] == 3
    assert found["arqd_job_duration_seconds_sum", "email", "send_email"] == pytest.approx(9999.22)
    assert found["arqd_job_wait_seconds_bucket", "email", "send_email", "0.0025"] == 2


async def test_metrics_of_several_workers_are_added_and_a_dead_one_is_left_out(redis_url: str, tmp_path: Path) -> None:
    one, other = FamilyMetrics(["send_email"]), FamilyMetrics()
    one.observe("send_email", "completed", 0.0, 1.0)
    other.observe("send_email", "completed", 0.0, 2.0)
    other.observe("send_bulk_email", "completed", 0.0, 2.0)
    files = [
        write(tmp_path / "1", document(families={"email": facts(one)})),
        write(tmp_path / "2", document(families={"email": facts(other)}, loop_lag_seconds=0.5, redis_up=False)),
        write(tmp_path / "3", document(families={"email": facts(other)}, time=NOW - 99, loop_lag_seconds=9)),
    ]
    async with probe(redis_url, heartbeats=files) as (app, _):
        found = samples((await get(app, "/metrics")).text)
    assert found["arqd_worker_slots", "email"] == 20
    assert found["arqd_jobs_total", "email", "send_email", "completed"] == 2
    assert found["arqd_job_duration_seconds_sum", "email", "send_email"] == 3.0
    assert found["arqd_jobs_total", "email", "send_bulk_email", "completed"] == 1
    assert found["arqd_worker_event_loop_lag_seconds",] == 0.5
    assert found["arqd_redis_up",] == 0


async def test_openmetrics_on_request(redis_url: str, tmp_path: Path) -> None:
    path = write(tmp_path / "heartbeat.json", document())
    async with probe(redis_url, heartbeats=[path]) as (app, _):
        answer = await get(app, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics_parser.text_string_to_metric_families(answer.text))
