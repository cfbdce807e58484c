"""What docs/families/email.md shows is true: its program and its command run, its tables name what there is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.family import load_family
from daemon.supervisor import Supervisor
from handlers.email.payloads import SendBulkEmail, SendEmail
from handlers.email.rendering import SHIPPED, Templates
from handlers.email.settings import EmailSettings
from handlers.email.worker import WorkerSettings
from handlers.integrations.smtp_settings import SmtpSettings

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "families" / "email.md").read_text(encoding="utf-8")


async def test_program(redis_url: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mail.py").write_text(program.replace("redis://localhost:6379", redis_url))
    family = load_family(WorkerSettings)
    family.ctx["settings"] = SimpleNamespace(email=EmailSettings(spool_dir=tmp_path / "spool"), smtp=SmtpSettings())
    supervisor = Supervisor([family], redis_url, handle_signals=False)
    working = asyncio.create_task(supervisor.run())
    try:
        said = await run(tmp_path / "mail.py")
        assert "sent_at=datetime" in said
        assert "recipients=2 enqueued=2 existed=0" in said
        async with asyncio.timeout(60):
            while len(list((tmp_path / "spool").glob("*.eml"))) < 3:
                await asyncio.sleep(0.01)
    finally:
        supervisor.drain()
        await working


async def run(program: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


def test_command() -> None:
    (given,) = re.findall(r"arqd enqueue send_email --json '(.*)'", PAGE)
    assert SendEmail.model_validate(json.loads(given)).template == "welcome"


def table(heading: str) -> dict[str, list[str]]:
    """Give a section's table: first column to the others."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| `")]
    return {first.strip("`"): rest for first, *rest in rows}


def test_table_of_fields() -> None:
    assert set(table("What a message takes")) == set(SendEmail.model_fields) == set(SendBulkEmail.model_fields)


@pytest.mark.parametrize("name", Templates().names())
def test_table_of_templates(name: str) -> None:
    row = PAGE.partition(f"\n| `{name}` |")[2].partition("\n")[0]
    needed, optional = (set(re.findall(r"`(\w+)`", column)) for column in row.split("|")[:2])
    source = "".join((SHIPPED / f"{name}.{kind}").read_text() for kind in ("html", "txt"))
    shown = set(re.findall(r"\{\{ (\w+) \}\}", source)) - {"subject", "unsubscribe_url"}
    tested = set(re.findall(r"if (\w+) is defined", source)) - {"unsubscribe_url"}
    assert optional == tested
    assert needed == shown - tested
