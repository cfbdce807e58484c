"""The benchmark runs, shows what it measured, and refuses figures whose jobs were not done. No peer is installed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import redis

from benchmarks import driver, main, measure, observing
from benchmarks.measure import Bench
from benchmarks.processes import Site
from benchmarks.server import Watch, append_only, measured_server
from benchmarks.systems import BY_NAME, Probe
from daemon.errors import ArqdError
from tests.marks import one_url

TINY = ["--quick", "--peers", "arqd", "--jobs", "400", "--singles", "2"]
ARQD = BY_NAME["arqd"]


def test_a_run_of_arqd_alone_gives_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--report", str(tmp_path)]
    assert main([*TINY, "--only", "drain,idle", *where]) == 0
    shown, told = capsys.readouterr()
    assert shown == (tmp_path / "report.md").read_text()
    assert "arqd bench:" not in told
    (drain,) = json.loads((tmp_path / "results.json").read_text())["rows"]["drain"]["arqd"]["repeats"]
    assert drain["jobs/s"] > 0
    assert 0 < drain["round trips a job"] < drain["commands a job"]
    assert drain["server CPU µs"] > 0
    assert "| arqd | max_jobs" in shown
    assert "idle: commands a second | ≤ 2" in shown
    for name in ("drain", "cpu", "pick-up", "round-trip"):
        ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())

    assert main([*TINY, "--only", "drain", "--add", *where]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert [repeat["run"] for repeat in found["rows"]["drain"]["arqd"]["repeats"]] == [0, 1]
    assert len(found["rows"]["idle"]["arqd"]["repeats"]) == 1
    assert [run["arguments"].split()[-1] for run in found["runs"]] == [str(tmp_path)] * 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "drains"], "there is no workload 'drains', only settings, drain"),
        (["--peers", "arqd,sidekiq"], "there is no system 'sidekiq', only arqd, arq"),
    ],
)
def test_what_it_does_not_know_is_told(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--report", str(tmp_path)]) == 1
    assert told in capsys.readouterr().err


@one_url
def test_a_figure_without_its_jobs_is_an_error(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "COUNT_SECONDS", 0.1)
    with redis.Redis.from_url(redis_url) as client, Site(ARQD, tmp_path, redis_url) as site:
        # Each look tells of more that have ended, whatever the handlers do.
        lying = Probe((("INCRBY", "ended", "10000"),))
        with pytest.raises(ArqdError, match="handlers ran only"):
            Bench(site, redis_url, client).drain({"max_jobs": 1}, 20_000, probe=lying)


def test_runs_are_counted_by_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(driver.FOLDER_VARIABLE, str(tmp_path))
    for worker, counter in (("0", driver.Counter()), ("1", driver.SharedCounter())):
        monkeypatch.setenv(driver.WORKER_VARIABLE, worker)
        for _ in range(3):
            counter()
    assert driver.counts(tmp_path) == {"0": 3, "1": 3}
    driver.tell_start(time.monotonic_ns() - 1_000_000)
    (seconds,) = driver.starts(tmp_path)
    assert 0.001 <= seconds < 5


def test_looking_leaves_no_trace_in_the_figures() -> None:
    with measured_server() as (url, name), redis.Redis.from_url(url) as client:
        assert name.startswith("valkey ")
        assert client.dbsize() == 0
        watch = Watch(url, Probe((("LLEN", "done"),)))
        before = watch.look_closely()
        for _ in range(5):
            watch.look()
        client.rpush("done", 1, 2)
        after = watch.look_closely()
        watch.close()
        assert (before.ended, after.ended) == (0, 2)
        assert before.usage is not None
        assert after.usage is not None
        assert after.usage.commands - before.usage.commands == 1
        assert after.usage.bytes_in - before.usage.bytes_in == len(
            "*4\r\n$5\r\nRPUSH\r\n$4\r\ndone\r\n$1\r\n1\r\n$1\r\n2\r\n"
        )
        assert after.usage.bytes_out - before.usage.bytes_out == len(":2\r\n")
        with append_only(client):
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendonly") == {"appendonly": "no"}
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_what_statistics_take_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "memory.json"
    assert observing.main(["memory", "--quick", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["memory"]
    assert (found["minute keys"]["count"], found["hour keys"]["count"]) == (1440, 24)
    assert 0 < found["minute keys"]["mean bytes"] < found["hour keys"]["mean bytes"]
    assert json.loads(capsys.readouterr().out)["memory"] == found
