"""The units under a real systemd: started, watched, reloaded, drained, killed."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from daemon.producer import Producer
from daemon.producing.handle import JobHandle
from daemon.scheduling.scheduler import LEASE
from tests.deploy.host import Host
from tests.servers import RedisServer

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(480)]

UNIT = "arqd@deployed.service"
SETTINGS = "ARQD_FAMILIES__DEPLOYED=deploy_family:WorkerSettings\n"
OTHERS = ("arqd-probe.service", "arqd-console.service", "arqd-scheduler.service")
URL = "unix:///srv/valkey/valkey.sock?db=0"
#: Seconds: longer than a busy machine lets a process stand still.
WATCHDOG = 10


class Site:
    """The machine with what the steps of the test share."""

    def __init__(self, machine: Host, valkey: RedisServer, producer: Producer) -> None:
        self.machine, self.valkey, self.producer = machine, valkey, producer
        self.redis = valkey.client(decode_responses=True)

    async def nap(self, seconds: float) -> JobHandle[Any]:
        """Enqueue a job that takes so long, and wait until it runs."""
        job = await self.producer.enqueue("nap", [seconds], family="deployed")
        await self.until(lambda: self.redis.lrange("test:starts", -1, -1) == [job.job_id], "the job starts")
        return job

    async def until(self, condition: Any, what: str) -> Any:
        """As `Host.until`, in a thread."""
        told = lambda: f"{what}\n{self.machine.journal(UNIT)[-2500:]}"  # noqa: E731
        return await asyncio.to_thread(self.machine.until, condition, told)

    async def logged(self, unit: str, text: str) -> None:
        """Wait until the journal has something of a unit: it may lag behind what systemd knows."""
        await self.until(lambda: text in self.machine.journal(unit), f"{text!r} in the journal")

    async def restarted(self, before: dict[str, str]) -> None:
        """Wait until systemd has started another process."""

        def again() -> bool:
            now = self.machine.facts(UNIT)
            return now["ActiveState"] == "active" and int(now["NRestarts"]) == int(before["NRestarts"]) + 1

        await self.until(again, "it is started again")


async def test_units_under_a_real_systemd(machine: Host, valkey: RedisServer) -> None:
    """Acceptance: all of it in one run."""
    began = time.monotonic()
    _install(machine)
    async with Producer.connect(valkey.url) as producer:
        site = Site(machine, valkey, producer)
        await _refuses_a_wrong_configuration(site)
        await _handshake_and_sandbox(site)
        await _reload(site)
        await _watchdog_and_crash(site)
        await _redis_away(site)
        await _drain(site)
        await _stop_timeout(site)
        await _the_other_units(site)
    print(f"\nsystemd: {time.monotonic() - began:.1f} s")


def _install(machine: Host) -> None:
    told = machine.run("/opt/arqd/bin/arqd", "install-systemd", "--write").stdout
    assert "/etc/systemd/system/arqd@.service" in told
    for unit in ("arqd@.service", "arqd-db-upgrade.service", *OTHERS):
        machine.run("systemd-analyze", "security", "--offline=yes", "--threshold=15", f"/etc/systemd/system/{unit}")
        verified = machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit.replace('@', '@deployed')}")
        assert (verified.stdout + verified.stderr).strip() == ""
    assert "ARQD_LOG_LEVEL=info" in machine.run("cat", "/etc/arqd/arqd.env").stdout
    machine.write("/etc/arqd/credentials/redis_url", URL, "600")
    # Times of a test: the units' own would make it wait for minutes.
    machine.write(
        f"/etc/systemd/system/{UNIT}.d/quick.conf",
        f"[Service]\nWatchdogSec={WATCHDOG}\nTimeoutStopSec=4\nRestartSec=0.1\n",
    )
    machine.run("systemctl", "daemon-reload")


async def _refuses_a_wrong_configuration(site: Site) -> None:
    site.machine.write("/etc/arqd/deployed.env", f"{SETTINGS}ARQD_FAMILY__DEPLOYED__MAX_JOBS=none at all\n")
    assert site.machine.run("systemctl", "start", UNIT, check=False).returncode != 0
    facts = site.machine.facts(UNIT)
    assert (facts["ActiveState"], facts["ExecMainStatus"], facts["NRestarts"]) == ("failed", "78", "0")
    await site.logged(UNIT, "ARQD_FAMILY__DEPLOYED__MAX_JOBS")
    site.machine.run("systemctl", "reset-failed", UNIT)


async def _handshake_and_sandbox(site: Site) -> None:
    site.machine.write("/etc/arqd/deployed.env", SETTINGS)
    site.machine.run("systemctl", "start", UNIT)
    facts = site.machine.facts(UNIT)
    assert (facts["ActiveState"], facts["Type"], facts["Slice"]) == ("active", "notify", "arqd.slice")
    assert facts["StatusText"] == "running 0 of 4 jobs: deployed"
    seen = await (await site.producer.enqueue("look", [], family="deployed")).result(timeout=60)
    assert 61184 <= seen["uid"] <= 65519
    assert {name: seen[name] for name in ("home", "usr", "etc", "state", "secret")} == {
        "home": False, "usr": False, "etc": False, "state": True, "secret": False,
    }  # fmt: skip
    assert re.search(r"CapBnd:\s0{16}\n(.*\n)*NoNewPrivs:\s1\n(.*\n)*Seccomp:\s2", seen["status"])
    assert "valkey-server" not in site.machine.run("ps", "-A").stdout
    files = site.machine.run("find", "/run/credentials", "-type", "f", "-printf", "%m\n").stdout.split()
    assert files
    assert set(files) <= {"400", "440"}


async def _reload(site: Site) -> None:
    job = await site.nap(2)
    site.machine.write("/etc/arqd/deployed.env", f"{SETTINGS}ARQD_FAMILY__DEPLOYED__MAX_JOBS=7\nARQD_LOG_LEVEL=debug\n")
    before = site.machine.facts(UNIT)
    site.machine.run("systemctl", "reload", UNIT)
    await site.until(lambda: "of 7 jobs" in site.machine.facts(UNIT)["StatusText"], "seven slots")
    await site.logged(UNIT, "max_jobs 4 to 7")
    site.machine.write("/etc/arqd/deployed.env", f"{SETTINGS}ARQD_FAMILY__DEPLOYED__MAX_JOB=8\n")
    site.machine.run("systemctl", "reload", UNIT)
    await site.logged(UNIT, "settings stay as they were")
    site.machine.write("/etc/arqd/deployed.env", SETTINGS)
    assert site.machine.facts(UNIT)["MainPID"] == before["MainPID"]
    assert await job.result(timeout=60) == int(before["MainPID"])


async def _watchdog_and_crash(site: Site) -> None:
    before = site.machine.facts(UNIT)
    blocking = await site.producer.enqueue("block", [600], family="deployed")
    await site.restarted(before)
    await site.logged(UNIT, "Watchdog timeout")
    await blocking.result(timeout=60)
    before = site.machine.facts(UNIT)
    napping = await site.nap(0.5)
    site.machine.run("kill", "-KILL", before["MainPID"])
    await site.restarted(before)
    await napping.result(timeout=60)


async def _redis_away(site: Site) -> None:
    site.machine.run("systemctl", "start", *OTHERS)
    units = (UNIT, *OTHERS)
    before = [site.machine.facts(unit) for unit in units]
    site.valkey.stop()
    await site.until(lambda: "Redis is away" in site.machine.facts(UNIT)["StatusText"], "it sees that Redis is away")
    # Longer than the watchdog: it is fed all the same.
    await asyncio.sleep(WATCHDOG + 2)
    site.valkey.start()
    await (await site.nap(0.1)).result(timeout=60)
    now = [site.machine.facts(unit) for unit in units]
    assert [(each["MainPID"], each["NRestarts"]) for each in now] == [
        (each["MainPID"], each["NRestarts"]) for each in before
    ]


async def _drain(site: Site) -> None:
    site.redis.delete("test:starts", "test:ends")
    # Longer than TimeoutStopSec: the drain asks for more time.
    running = await site.nap(10)
    waiting = [await site.producer.enqueue("nap", [0.1], delay=3600, family="deployed") for _ in range(3)]
    stopping = site.machine.begin("systemctl", "stop", UNIT)
    await site.until(lambda: site.machine.facts(UNIT)["StatusText"].startswith("draining"), "it drains")
    queued = await site.producer.enqueue("nap", [0.1], family="deployed")
    assert await asyncio.to_thread(stopping.wait, 90) == 0
    facts = site.machine.facts(UNIT)
    assert (facts["Result"], facts["ExecMainStatus"]) == ("success", "0")
    assert site.redis.lrange("test:ends", 0, -1) == [running.job_id] == site.redis.lrange("test:starts", 0, -1)
    site.machine.run("systemctl", "start", UNIT)
    await queued.result(timeout=60)
    assert site.redis.lrange("test:starts", 0, -1) == [running.job_id, queued.job_id]
    assert {str(await job.status()) for job in waiting} == {"delayed"}


async def _stop_timeout(site: Site) -> None:
    site.redis.delete("test:blocked")
    # Nor shall it be the watchdog that ends it: it would be started again, and that process be stopped.
    site.machine.run("systemctl", "service-watchdogs", "no")
    blocking = await site.producer.enqueue("block", [600], family="deployed")
    await site.until(lambda: site.redis.get("test:blocked"), "the job blocks the event loop")
    site.machine.run("systemctl", "stop", UNIT, check=False)
    facts = site.machine.facts(UNIT)
    assert (facts["Result"], facts["ActiveState"]) == ("timeout", "failed")
    site.machine.run("systemctl", "service-watchdogs", "yes")
    site.machine.run("systemctl", "reset-failed", UNIT)
    site.machine.run("systemctl", "start", UNIT)
    await blocking.result(timeout=60)


async def _the_other_units(site: Site) -> None:
    site.machine.run("systemctl", "start", "arqd-db-upgrade")
    await site.logged("arqd-db-upgrade", "arqd.db: ")
    ask = "import urllib.request as r, sys; a = r.urlopen(sys.argv[1], timeout=30); print(a.status, a.read())"

    def answers(url: str, text: str = "") -> bool:
        told = site.machine.run("python3", "-c", ask, url, check=False).stdout
        return told.startswith("200 ") and text in told

    await site.until(lambda: answers("http://127.0.0.1:9191/readyz", "worker:heartbeat"), "the probe sees the worker")
    for url in ("http://127.0.0.1:9191/backlog", "http://127.0.0.1:9180/api/v1/health"):
        await site.until(lambda url=url: answers(url), url)
    # Where neither a worker nor the console runs the scheduler leads.
    site.machine.run("systemctl", "stop", "arqd-console", UNIT)
    pid = site.machine.facts("arqd-scheduler")["MainPID"]
    await site.until(lambda: (site.redis.get(LEASE) or "").split(":")[1:2] == [pid], "the scheduler leads")
    site.machine.run("systemctl", "stop", "arqd.target", *OTHERS)
    for unit in (UNIT, *OTHERS):
        facts = site.machine.facts(unit)
        assert (facts["ActiveState"], facts["Result"], facts["Slice"]) == ("inactive", "success", "arqd.slice"), unit
