"""What is planted in an encrypted family is found nowhere: not in the server's files, not in the logs, not on a screen.

Everything is a process of its own. The same search finds the plants of a family that is not encrypted, so it would find
the others, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon.cli.command import main
from daemon.encryption import generate_key
from tests.conftest import RedisServerFactory
from tests.marks import one_server
from tests.servers import Servers

ROOT = Path(__file__).parents[2]
FAMILY = "tests.integration.vault_family:WorkerSettings"
PLANTS = {"text": "canary-payload", "pin": "canary-pin"}
KEYS = f"{generate_key('2026a')},{generate_key('2025b')}"


class Ended(NamedTuple):
    """How a command ended."""

    stdout: bytes
    stderr: bytes


class Arqd:
    """The command: daemons as processes of their own, with all they would log."""

    def __init__(self, folder: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
        self.environ = inherited | environ | {"ARQD_LOG_LEVEL": "debug"}

    def __call__(self, *arguments: str, status: int = 0, **environ: str) -> Ended:
        self.capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            assert main(arguments) == status
        out, err = self.capsys.readouterr()
        return Ended(out.encode(), err.encode())

    def burst(self) -> bytes:
        """Work off what waits; gives what the worker logged."""
        command = [sys.executable, "-m", "daemon", "run", "vault", "--burst"]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run a worker meanwhile; what it logs is looked at."""
        command = [sys.executable, "-m", "daemon", "run", "vault"]
        log = self.folder / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            ended = process.wait(60)
        assert ended == 0, log.read_text()
        assert b"canary" not in log.read_bytes()


@pytest.fixture
def server(redis_server: RedisServerFactory) -> Servers:
    """A server that keeps an append-only file; its dump is not compressed, so that it can be searched."""
    return redis_server(appendonly="yes", appendfsync="always", rdbcompression="no", slowlog_log_slower_than=0)


@pytest.fixture
def arqd(server: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    """The command on that server, in an empty folder."""
    environ = {
        "PYTHONPATH": str(ROOT),
        "ARQD_REDIS_URL": server.url,
        "ARQD_FAMILIES__VAULT": FAMILY,
        "ARQD_ENCRYPTION_KEYS": KEYS,
    }
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Arqd(tmp_path, environ, capsys)


def files(server: Servers) -> bytes:
    """All the server has written: append-only file, dump, its own log, and what it remembers of slow commands."""
    with server.client() as client:
        client.save()
        slow = repr(client.slowlog_get(10_000))
    written = [path for path in server.data_dir.rglob("*") if path.is_file()]
    assert {"dump.rdb", "valkey.log"} < {path.name for path in written}
    assert any(path.suffix == ".aof" and path.stat().st_size > 100 for path in written)
    return b"".join(path.read_bytes() for path in written) + slow.encode()


def enqueue(arqd: Arqd, *options: str, **fields: object) -> str:
    return arqd("enqueue", "open_vault", "--json", json.dumps(PLANTS | fields), *options).stdout.decode().strip()


def looked(arqd: Arqd, state: str, *ids: str) -> bytes:
    """What the commands that look show."""
    commands = [("jobs", "vault", "--state", state), ("jobs", "vault", "--state", state, "--json")]
    for id in ids:
        commands += [("job", id, "--logs"), ("job", id, "--logs", "--json"), ("explain", id)]
    return b"".join(done.stdout + done.stderr for done in (arqd(*command) for command in commands))


@one_server
def test_plants_in_an_encrypted_family_are_found_nowhere(arqd: Arqd, server: Servers) -> None:
    done, dead = enqueue(arqd), enqueue(arqd, fail=True)
    later = enqueue(arqd, "--delay", "1h", "--dedup-key", "canary-key")
    seen = looked(arqd, "waiting", done) + looked(arqd, "delayed", later) + files(server)
    arqd("remove", later)  # a burst would wait for it
    worker = arqd.burst()
    assert b"dead letter" in worker
    seen += worker + looked(arqd, "completed", done) + looked(arqd, "failed", dead) + files(server)
    seen += arqd("dead", "list", "vault").stdout + arqd("dead", "groups", "vault").stdout
    seen += arqd("tail", "vault", "--since", "start", "--once").stdout + arqd("keys", "list").stdout
    with arqd.beside():
        waited = arqd("enqueue", "pick", "--json", '{"text": "canary-wait"}', "--wait")
        assert (
            b"canary-wait" in arqd("enqueue", "pick", "--json", '{"text": "canary-wait"}', "--wait", "--reveal").stdout
        )
    seen += waited.stdout + waited.stderr + files(server)
    assert seen.count(b"canary") == 0
    assert b"ValueError" in seen
    # They are there all the same, for whoever holds the key and asks for it.
    shown = arqd("job", dead, "--logs", "--reveal").stdout
    for plant in (b"canary-payload in an error", b"canary-payload in a line", b'"pin":"canary-pin"'):
        assert plant in shown
    assert b"canary-payload in a result" in arqd("job", done, "--reveal", "--json").stdout
    without = arqd("job", done, "--reveal", status=1, ARQD_ENCRYPTION_KEYS=generate_key("other"))
    assert b"2026a" in without.stderr
    for key in KEYS.split(","):
        assert key.partition(":")[2].encode() not in seen + shown


@one_server
def test_the_same_plants_in_clear_are_found_everywhere(arqd: Arqd, server: Servers) -> None:
    job = arqd("enqueue", "plain", "--family", "plain", "--json", '{"text": "canary-payload"}').stdout.decode().strip()
    assert b"canary-payload" in files(server)
    assert b"canary-payload" in arqd("job", job).stdout
