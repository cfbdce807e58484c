"""``arqd token``, ``arqd audit``, and that what the command changes stands in the audit log."""

from __future__ import annotations

import json

from tests.integration.test_cli import Arqd, arqd, queue  # noqa: F401
from tests.servers import looking_at


def test_tokens_are_made_listed_and_revoked(queue: Arqd) -> None:  # noqa: F811
    made = queue("token", "add", "ci", "--role", "operator", "--expires", "90d")
    assert made.status == 0
    assert made.out.startswith("arqd_ci.")
    assert "ci is operator until" in made.err
    again = queue("token", "add", "ci", "--role", "viewer")
    assert (again.status, "there is a token 'ci' already" in again.err) == (1, True)
    told = queue("token", "add", "other", "--role", "viewer", "--json").json()
    assert (told["info"]["name"], told["info"]["expires_at"]) == ("other", None)
    assert [token["name"] for token in queue("token", "list", "--json").json()] == ["ci", "other"]
    assert made.out.strip() not in queue("token", "list").out
    assert queue("token", "revoke", "ci").out == "ci revoked\n"
    assert queue("token", "revoke", "ci").status == 1
    assert queue("token", "add", "Ci", "--role", "viewer").status == 1
    assert queue("token", "add", "ci", "--role", "root").status == 2
    actions = [(e["action"], e["outcome"]) for e in queue("audit", "list", "--json").json()["entries"]]
    assert actions == [
        ("token.add", "refused"), ("token.revoke", "refused"), ("token.revoke", "done"), ("token.add", "done"),
        ("token.add", "refused"), ("token.add", "done"),
    ]  # fmt: skip


def test_changes_are_audited_and_looks_are_not(queue: Arqd) -> None:  # noqa: F811
    greet = ("greet", "--json", json.dumps({"name": "Ada"}))
    job = queue("enqueue", *greet, "--delay", "1h").out.strip()
    for arguments in (
        ("queues",), ("jobs", "greetings", "--state", "delayed"), ("limits", "greetings"),
        ("drain", "greetings", "--dry-run"), ("schedule", "list"), ("dead", "groups"),
        ("dead", "retry", "--family", "greetings", "--all", "--dry-run"),
    ):  # fmt: skip
        assert queue(*arguments).status == 0, arguments
    assert queue("audit", "list", "--json").json()["entries"] == []
    changes: list[tuple[tuple[str, ...], str, str]] = [
        (("pause", "greetings"), "queue.pause", "greetings"),
        (("resume", "greetings"), "queue.resume", "greetings"),
        (("limits", "greetings", "--rate", "5/s"), "queue.limits", "greetings"),
        (("priority", job, "high"), "job.priority", job),
        (("promote", job), "job.promote", job),
        (("abort", job), "job.abort", job),
        (("remove", job), "job.remove", job),
        (("schedule", "add", "s", *greet, "--cron", "@daily"), "schedule.add", "greetings:s"),
        (("schedule", "pause", "greetings:s"), "schedule.pause", "greetings:s"),
        (("schedule", "resume", "greetings:s"), "schedule.resume", "greetings:s"),
        (("schedule", "run", "greetings:s"), "schedule.run", "greetings:s"),
        (("schedule", "remove", "greetings:s"), "schedule.remove", "greetings:s"),
        (("retry", "--family", "greetings", "--all"), "dead.retry", "greetings"),
        (("dead", "discard", "--family", "greetings", "--all"), "dead.discard", "greetings"),
        (("dead", "retry", "--family", "greetings", "--all"), "dead.redrive", "greetings"),
        (("drain", "greetings"), "queue.drain", "greetings"),
        (("clean", "greetings", "--state", "failed"), "queue.clean", "greetings"),
        (("clear", "greetings"), "queue.clear", "greetings"),
    ]
    for arguments, _, _ in changes:
        ended = queue(*arguments)
        assert ended.status == 0, (arguments, ended.err)
    entries = list(reversed(queue("audit", "list", "--json").json()["entries"]))
    assert [(e["action"], e["target"]) for e in entries] == [(action, target) for _, action, target in changes]
    assert {(e["via"], e["outcome"]) for e in entries} == {("cli", "done")}
    assert all(e["actor"] and e["address"] for e in entries)
    assert entries[-2]["detail"] == {"older_than": "0", "result": {"failed": 0}, "state": "failed"}


def test_the_log_is_verified(queue: Arqd, redis_url: str) -> None:  # noqa: F811
    for act in ("pause", "resume", "pause"):
        queue(act, "greetings")
    whole = queue("audit", "verify")
    assert whole.status == 0
    assert whole.out.startswith("3 entries, whole: 3:")
    noted = whole.out.split()[-1]
    assert queue("audit", "verify", "--expect", noted).status == 0
    assert queue("audit", "verify", "--expect", "nonsense").status == 2
    assert queue("audit", "list", "--action", "queue.resume").out.count("queue.") == 1
    page = queue("audit", "list", "--limit", "2")
    assert "more: --cursor 2" in page.out
    assert queue("audit", "list", "--cursor", "2", "--json").json()["cursor"] is None
    with looking_at(redis_url) as client:
        client.lset("{arqd:audit}:log", 1, client.lindex("{arqd:audit}:log", 0))
    broken = queue("audit", "verify")
    assert broken.status == 1
    assert "entry 2 is missing" in broken.out
    assert queue("audit", "verify", "--json").status == 1
