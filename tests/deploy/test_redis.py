"""Redis with TLS and a user of least privilege for each kind of program, as docs/operations/redis.md lists them."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from daemon.connecting.connections import connect
from daemon.console.roles import Role
from daemon.console.tokens import Tokens
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import JobFailed, RedisRefused
from daemon.family import FamilySettings, load_family
from daemon.inspector import Inspector
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.scheduling.scheduler import Scheduler
from daemon.supervisor import Supervisor
from tests.certificates import certificate
from tests.servers import RedisServer, binary_of, free_port

PAGE = Path(__file__).parents[2] / "docs/operations/redis.md"
FAMILY = "guarded"


class Echo(Payload, family=FAMILY):
    text: str


async def echo(ctx: JobContext, job: Echo) -> str:
    """Give it back."""
    if job.text == "wrong":
        raise ValueError(job.text)
    return job.text


class WorkerSettings(FamilySettings):
    family = FAMILY
    functions = (echo,)
    max_tries = 1


class Guarded:
    """A server with the users of the page; `url` is theirs."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.passwords = {name: secrets.token_hex(16) for name in ("producer", "worker", "probe", "console")}
        acl = folder / "users.acl"
        root = secrets.token_hex(16)
        acl.write_text("\n".join([*self.lines(), f"user root on >{root} ~* &* +@all"]) + "\n")
        config = {"aclfile": acl}
        self._scheme, self._port, self._options = "redis", 0, ""
        if kind == "redis":
            key, cert = certificate(folder)
            self._port = free_port()
            config |= {"tls_port": self._port, "tls_cert_file": cert, "tls_key_file": key, "tls_ca_cert_file": cert}
            config |= {"tls_auth_clients": "no"}
            self._scheme, self._options = "rediss", f"?ssl_ca_certs={cert}"
        # The tests' own class logs in as the default user, which there is none of.
        self.server = _AsRoot(folder, root, program=binary_of(kind), **config)
        self._port = self._port or self.server.port

    def lines(self) -> list[str]:
        """Give the users of the page, for this family and with passwords of this run."""
        page = PAGE.read_text()
        found = re.findall(r"^user (\w+) .*$", page, re.MULTILINE)
        assert found == [*self.passwords, "default"]
        lines = [line for line in page.splitlines() if line.startswith("user ")]
        lines = [line.replace("{email}", f"{{{FAMILY}}}") for line in lines]
        return [line.replace(">…", f">{self.passwords.get(line.split()[1], '')}") for line in lines]

    def url(self, user: str) -> str:
        return f"{self._scheme}://{user}:{self.passwords[user]}@127.0.0.1:{self._port}/0{self._options}"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user))


class _AsRoot(RedisServer):
    def __init__(self, folder: Path, password: str, **config: object) -> None:
        super().__init__(folder, **config)  # type: ignore[arg-type]
        self._root = password

    @property
    def url(self) -> str:
        return f"redis://root:{self._root}@127.0.0.1:{self.port}/0"


@pytest.fixture(scope="module", params=["redis", "valkey"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    site = Guarded(request.param, tmp_path_factory.mktemp("guarded"))
    site.server.start()
    yield site
    site.server.kill()


def refused(guarded: Guarded) -> set[str]:
    """Give what the server refused; but for payloads, which a producer's scripts may try to read."""
    with guarded.server.client(decode_responses=True) as root:
        told = {f"{e['username']}: {e['reason']} {e['object']}" for e in root.acl_log()}
        return {each for each in told if not each.startswith("producer: key arq:job:")}


async def test_each_program_can_do_its_work(guarded: Guarded) -> None:
    supervisor = Supervisor([load_family(WorkerSettings)], guarded.url("worker"), handle_signals=False)
    running = asyncio.create_task(supervisor.run())
    async with (
        Producer.connect(guarded.url("producer")) as producer,
        Inspector.connect(guarded.url("probe"), [FAMILY]) as probe,
        Control.connect(guarded.url("console"), [FAMILY]) as control,
    ):
        job = await producer.enqueue(Echo(text="hello"))
        assert await job.result(timeout=60) == "hello"
        await producer.enqueue(Echo(text="later"), delay=600)
        first = await producer.enqueue(Echo(text="a"), dedup_key="k", dedup_window=60, delay=600)
        assert (await producer.enqueue(Echo(text="b"), dedup_key="k", dedup_window=60)).id == first.id
        many = await producer.enqueue_many([Echo(text=str(n)) for n in range(20)])
        assert [await each.result(timeout=60) for each in many] == [str(n) for n in range(20)]
        wrong = await producer.enqueue(Echo(text="wrong"))
        with pytest.raises(JobFailed, match="wrong"):
            await wrong.result(timeout=60)

        assert (await probe.backlog(FAMILY))["workers"] == 1
        assert (await probe.queue(FAMILY)).failed == 1

        await control.pause(FAMILY)
        await control.resume(FAMILY)
        async with Inspector.connect(guarded.url("console"), [FAMILY]) as looking:
            assert (await looking.job(wrong.id)).function == "echo"
            assert [each.id for each in await looking.jobs(FAMILY, "failed")] == [wrong.id]
        client = connect(guarded.url("console"))
        await Tokens(client).add("me", Role.ADMIN)
        await client.aclose()
        leader = Scheduler(guarded.url("console"))
        leading = asyncio.create_task(leader.run())
        await asyncio.sleep(0.2)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
    supervisor.drain()
    await running
    assert refused(guarded) == set()


async def test_a_producer_reads_no_payload(guarded: Guarded) -> None:
    async with Producer.connect(guarded.url("producer")) as producer:
        job = await producer.enqueue(Echo(text="of somebody else"))
    key = f"arq:job:{job.job_id}"
    with guarded.server.client() as root, guarded.client("producer") as theirs, guarded.client("probe") as probe:
        assert b"of somebody else" in root.get(key)
        root.set("arq:job:{payments}:1", "of another family")
        for client in (theirs, probe):
            for read in (
                lambda c: c.get(key), lambda c: c.mget([key]), lambda c: c.getrange(key, 0, -1), lambda c: c.dump(key),
                lambda c: c.eval("return redis.call('GET', KEYS[1])", 1, key), lambda c: c.copy(key, f"{{{FAMILY}}}:x"),
                lambda c: c.eval("return redis.call('GET', ARGV[1])", 0, key), lambda c: c.get("arq:job:{payments}:1"),
                lambda c: c.rename(key, f"{{{FAMILY}}}:x"), lambda c: c.sort(f"{{{FAMILY}}}:x", get="arq:job:*"),
                lambda c: c.keys("*"), lambda c: c.scan(), lambda c: c.flushall(), lambda c: c.config_get("*"),
                lambda c: c.set("arq:job:{payments}:1", "changed"), lambda c: c.acl_list(),
                lambda c: c.execute_command("MIGRATE", "127.0.0.1", "1", key, "0", "10"),
            ):  # fmt: skip
                with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't access"):
                    read(client)
        with pytest.raises(redis.ResponseError, match=r"(?i)permission"):
            probe.delete(f"arq:{{{FAMILY}}}")


async def test_a_producer_that_asks_for_jobs_needs_to_read_them(guarded: Guarded) -> None:
    async with Producer.connect(guarded.url("producer")) as producer:
        child = await producer.enqueue(Echo(text="child"), delay=600)
        with pytest.raises(RedisRefused):
            await child.status()
        with guarded.server.client() as root:
            kinds = ("job", "result", "retry", "in-progress")
            root.acl_setuser(
                "producer", keys=[*(f"arq:{kind}:{{{FAMILY}}}:*" for kind in kinds), "arqd:flows:families"]
            )
        assert str(await child.status()) == "delayed"
        parent = await producer.enqueue(Echo(text="parent"), depends_on=[child])
        assert str(await parent.status()) == "blocked"
        assert await child.abort(timeout=60)
