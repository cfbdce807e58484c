"""What docs/families/payments.md shows is true: its program runs, its tables name what there is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from daemon.family import load_family
from daemon.settings import load_settings
from daemon.supervisor import Supervisor
from handlers.integrations.database import Database
from handlers.payments.payloads import PayCommission, RetriedPayment, RetryPayment
from handlers.payments.settings import PaymentsSettings
from handlers.payments.worker import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "families" / "payments.md").read_text(encoding="utf-8")


async def test_program(redis_url: str, database: Database, database_url: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (printed,) = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "pay.py").write_text(program)
    family = load_family(WorkerSettings)
    family.ctx["settings"] = load_settings({"ARQD_DATABASE_URL": database_url})
    supervisor = Supervisor([family], redis_url, handle_signals=False)
    working = asyncio.create_task(supervisor.run())
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / "pay.py"),
            env=os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert said.decode() == printed
    finally:
        supervisor.drain()
        await working


def test_command() -> None:
    (given,) = re.findall(r"arqd enqueue retry_payment --json '(.*)'", PAGE)
    assert RetryPayment.model_validate(json.loads(given)).provider == "stripe"


def named(section: str) -> set[str]:
    """Give the fields in the first column of a section's table."""
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_tables() -> None:
    table, _, after = PAGE.partition("## retry_payment\n")[2].partition("The result is")
    assert named(table) == set(RetryPayment.model_fields) - {"provider"}
    assert set(re.findall(r'"(\w+)"', after.partition("}")[0])) == set(RetriedPayment.model_fields)
    commission = PAGE.partition("## pay_commission\n")[2].partition("The share")[0]
    assert named(commission) == set(PayCommission.model_fields)
    variables = set(re.findall(r"ARQD_PAYMENTS__(\w+)", PAGE))
    assert variables <= {name.upper() for name in PaymentsSettings.model_fields}
