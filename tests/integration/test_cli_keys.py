"""``arqd keys``, and what other commands show of what is encrypted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.cli.command import main
from daemon.encryption import KeyRing, generate_key
from daemon.family import load_family
from daemon.producer import SyncProducer
from daemon.supervisor import Supervisor
from tests.integration.vault_family import Pick, WorkerSettings

OLD, NEW = generate_key("2025b"), generate_key("2026a")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Arqd = Callable[..., Ended]


@pytest.fixture
def arqd(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Arqd:
    """Run a command with these keys, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_FAMILIES__VAULT", "tests.integration.vault_family:WorkerSettings")

    def run(*arguments: str, keys: str = NEW) -> Ended:
        monkeypatch.setenv("ARQD_ENCRYPTION_KEYS", keys)
        capsys.readouterr()
        status = main(arguments)
        ended = Ended(status, *capsys.readouterr())
        assert not any(key.partition(":")[2] in ended.out + ended.err for key in (OLD, NEW))
        return ended

    return run


def work(redis_url: str, keys: str) -> None:
    family = load_family(WorkerSettings)
    supervisor = Supervisor([family], redis_url, burst=True, handle_signals=False, keyring=KeyRing.parse(keys))
    asyncio.run(supervisor.run())


def test_keys_are_made_and_listed(arqd: Arqd) -> None:
    made = arqd("keys", "generate", "mine").out.strip()
    assert KeyRing.parse(made).ids == ("mine",)
    assert len(KeyRing.parse(arqd("keys", "generate").out.strip()).ids[0]) == 7
    assert arqd("keys", "generate", "a b").status == 1
    listed = json.loads(arqd("keys", "list", "--json", keys=f"{NEW},{OLD}").out)
    assert [(key["id"], key["encrypts"]) for key in listed] == [("2026a", True), ("2025b", False)]
    assert arqd("keys", "list", keys="").out.split() == ["id", "check", "encrypts"]
    wrong = arqd("keys", "list", keys=f"{NEW},x:{OLD[6:30]}")
    assert wrong.status == 1
    assert wrong.err.startswith("arqd: ARQD_ENCRYPTION_KEYS: key 2 is not")
    assert OLD[6:30] not in wrong.err


def test_a_job_is_shown_masked_and_revealed_with_its_key(arqd: Arqd, redis_url: str) -> None:
    with SyncProducer.connect(redis_url, keyring=KeyRing.parse(NEW)) as producer:
        job = producer.enqueue(Pick(text="canary"))
        work(redis_url, NEW)
        assert job.result(30) == "canary"
        assert (job.info().result, job.info(reveal=True).result) == ("**********", "canary")
        assert job.result(60, reveal=False) == "**********"
        assert job.logs(reveal=True).lines == []
    assert "canary" not in arqd("job", job.id).out + arqd("jobs", "vault", "--state", "completed", "--json").out
    assert 'payload      {"text":"canary"}' in arqd("job", job.id, "--reveal").out
    for keys, told in ((OLD, "the key 2026a "), ("", "the key 2026a ")):
        refused = arqd("job", job.id, "--reveal", keys=keys)
        assert refused.status == 1
        assert told in refused.err


def test_what_is_revealed_stands_in_the_audit_log(arqd: Arqd, redis_url: str) -> None:
    id = arqd("enqueue", "pick", "--json", '{"text": "canary"}').out.strip()
    work(redis_url, NEW)
    assert "canary" in arqd("job", id, "--logs", "--reveal").out
    assert arqd("job", id).status == 0
    assert arqd("job", id, "--reveal", keys=OLD).status == 1
    entries = json.loads(arqd("audit", "list", "--action", "job.reveal", "--json").out)["entries"]
    assert [(entry["target"], entry["outcome"]) for entry in entries] == [(id, "refused"), (id, "done")]


def test_a_job_is_handed_over_encrypted_or_not_at_all(arqd: Arqd) -> None:
    refused = arqd("enqueue", "pick", "--json", '{"text": "canary"}', keys="")
    assert refused.status == 1
    assert "no key is set" in refused.err
    assert "canary" not in refused.err
    assert arqd("enqueue", "pick", "--json", '{"text": "canary"}').status == 0


def test_a_family_is_put_under_the_new_key(arqd: Arqd, redis_url: str) -> None:
    id = arqd("enqueue", "pick", "--json", '{"text": "canary"}', keys=OLD).out.strip()
    without = arqd("keys", "reencrypt", "vault", keys=NEW)
    assert without.status == 1
    assert "1 values cannot be read" in without.err
    assert arqd("keys", "reencrypt", "vault", keys=f"{NEW},{OLD}").out == "vault: 1 values under the first key now\n"
    done: Any = json.loads(arqd("keys", "reencrypt", "vault", "--json").out)
    assert done == {"changed": 0, "active": 0, "unreadable": 0}
    assert "canary" in arqd("job", id, "--reveal").out
    assert arqd("keys", "reencrypt", "valut").status == 1
    assert arqd("keys", "reencrypt", "vault", keys="").status == 1


def test_jobs_in_clear_are_taken_again(arqd: Arqd, redis_url: str) -> None:
    work(redis_url, NEW)
    with SyncProducer.connect(redis_url) as producer:
        with pytest.raises(Exception, match="the family of pick is encrypted"):
            producer.enqueue("pick", {"text": "x"}, family="vault")
        assert arqd("keys", "off", "vault").out == "vault: jobs in clear are taken again\n"
        assert producer.enqueue("pick", {"text": "x"}, family="vault").created
