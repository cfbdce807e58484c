"""The embedded Valkey: keeps its data, survives Ctrl-C, is alone in its folder."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from daemon import embedded
from daemon.embedded import EmbeddedServer, running_url
from daemon.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
import redis
from daemon.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1])).__enter__()
redis.Redis.from_url(server.url).set("kept", "yes")
os.kill(os.getpid(), signal.SIGKILL)
"""


def client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_data_and_address_survive_a_restart(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey") as server, client(server) as redis_:
        redis_.set("kept", "yes")
        first = server.url
    with EmbeddedServer(tmp_path / "valkey") as server, client(server) as redis_:
        assert redis_.get("kept") == b"yes"
        assert server.url == first
        assert redis_.config_get("appendfsync") == {"appendfsync": "everysec"}


def test_it_asks_for_the_password_which_only_the_owner_can_read(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey") as server:
        port = client(server).connection_pool.connection_kwargs["port"]
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert stat.S_IMODE((tmp_path / "valkey" / "url").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "valkey").stat().st_mode) == 0o700


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey") as server:
        assert server.pid is not None
        # A terminal signals the foreground process group of its session, which is ours.
        assert os.getpgid(server.pid) != os.getpgid(0)
        assert os.getsid(server.pid) != os.getsid(0)


def test_a_second_one_on_the_folder_is_refused_and_told(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey") as server:
        with (
            pytest.raises(ConfigurationError, match=r"another arqd uses .* set ARQD_VAR_DIR"),
            EmbeddedServer(tmp_path / "valkey"),
        ):
            pass
        with client(server) as redis_:
            assert redis_.ping()


def test_other_commands_find_it_only_while_it_runs(tmp_path: Path) -> None:
    assert running_url(tmp_path / "valkey") is None
    with EmbeddedServer(tmp_path / "valkey") as server:
        assert running_url(tmp_path / "valkey") == server.url
    assert running_url(tmp_path / "valkey") is None


def test_a_server_left_behind_by_a_killed_arqd_is_replaced(tmp_path: Path) -> None:
    # No fork of this process: it has threads, which may hold locks.
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "valkey")], cwd=ROOT, timeout=100, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    url = (tmp_path / "valkey" / "url").read_text()
    with redis.Redis.from_url(url) as orphan:
        left_behind = orphan.info("server")["process_id"]
    with EmbeddedServer(tmp_path / "valkey") as server, client(server) as redis_:
        # On the same port, so the other one has left it.
        assert server.url == url
        assert redis_.info("server")["process_id"] == server.pid != left_behind
        assert redis_.get("kept") == b"yes"


def test_it_keeps_freed_memory_at_hand_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tunables(folder: str) -> str:
        with EmbeddedServer(tmp_path / folder) as server:
            environ = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        return next(each.partition(b"=")[2].decode() for each in environ if each.startswith(b"GLIBC_TUNABLES="))

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert tunables("default") == "glibc.malloc.tcache_count=500"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert tunables("own") == "glibc.malloc.arena_max=1"


def test_a_taken_port_is_given_up_for_another(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey") as server:
        url = server.url
    with EmbeddedServer(tmp_path / "other") as other:
        taken = other.url.rpartition(":")[2]
        (tmp_path / "valkey" / "url").write_text(url.rpartition(":")[0] + ":" + taken)
        with EmbeddedServer(tmp_path / "valkey") as server, client(server) as redis_:
            assert redis_.ping()
            assert server.url != other.url


def test_what_stops_it_from_starting_is_told(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "appendonlydir").write_text("a file where Valkey wants its folder")
    with (
        pytest.raises(ConfigurationError, match=r"did not start: .*valkey.log says why"),
        EmbeddedServer(tmp_path / "valkey"),
    ):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"), EmbeddedServer(tmp_path / "file" / "valkey"):
        pass
    assert running_url(tmp_path / "valkey") is None


def test_it_is_gone_when_told_to_stop(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey") as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.pid is None)


def test_a_port_that_is_taken_between_the_look_and_the_start_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = embedded._free_port
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken, taken])
        monkeypatch.setattr(embedded, "_free_port", lambda wanted: next(ports, 0) or found(0))
        with EmbeddedServer(tmp_path / "valkey") as server, client(server) as redis_:
            assert redis_.ping()
            assert running_url(tmp_path / "valkey") == server.url
        monkeypatch.setattr(embedded, "_free_port", lambda wanted: taken)
        with pytest.raises(ConfigurationError, match=r"did not start: .*valkey\.log says why"):
            EmbeddedServer(tmp_path / "valkey").__enter__()
