"""The benchmark runs, shows every row, and leaves another's server as it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import redis

from benchmarks import main, observing
from benchmarks.server import measured_server

SMALL = ["--quick", "--waiting", "50", "--jobs", "60", "--singles", "2"]
SETUPS = [("arq", "tuned"), ("arqd", "tuned"), ("arq", "default"), ("arqd", "default")]


def test_every_row_is_there_and_foreign_keys_stay(
    redis_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    with redis.Redis.from_url(redis_url) as client:
        client.set("another", "value")
        assert main([*SMALL, "--url", redis_url, "--force", "--json", str(path)]) == 0
        deadline = time.monotonic() + 5
        while client.keys() != [b"another"]:
            assert time.monotonic() < deadline, client.keys()
            time.sleep(0.05)
    shown, told = capfd.readouterr()
    assert told == "", "workers warn of nothing"
    found = json.loads(path.read_text())
    assert [(row["system"], row["setup"], row["runs"][0]["waiting"]) for row in found["drain"]] == [
        (*setup, 50) for setup in SETUPS
    ]
    for row in found["drain"]:
        (run,) = row["runs"]
        assert run["jobs"] > 0
        assert 0 < run["calls"] <= run["commands"]
        assert shown.count(f"\n{row['system']} {row['setup']} ") >= 2
    assert [(row["system"], row["setup"]) for row in found["latency"]] == [
        ("arq", "default"),
        ("arq", "tuned"),
        ("arqd", "default"),
    ]
    for row in found["latency"]:
        assert len(row["pick_up"]["times"]) == len(row["round_trip"]["times"]) == 2
        assert 0 < row["pick_up"]["p50"] <= row["pick_up"]["p99"]
    (ratio,) = found["ratios"]
    assert ratio in shown


def test_a_server_with_data_is_refused(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("another", "value")
        assert main(["--url", redis_url]) == 1
        assert client.dbsize() == 1
    assert "name an empty database" in capsys.readouterr().err


def test_it_brings_a_server_of_its_own() -> None:
    with measured_server(None, force=False) as (url, name), redis.Redis.from_url(url) as client:
        assert name.startswith("valkey ")
        assert client.dbsize() == 0
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
