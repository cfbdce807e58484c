"""docs/families/webhooks.md: its programs run against a real worker and receiver."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

from pydantic import SecretStr

from daemon.family import load_family
from daemon.limits.queue_limits import lanes_of_settings
from handlers.integrations.database_settings import DatabaseSettings
from handlers.integrations.http_settings import HttpSettings
from handlers.webhooks.settings import WebhooksSettings
from handlers.webhooks.tasks import STANDARD
from handlers.webhooks.worker import WorkerSettings
from tests.docs.pages import ROOT, page
from tests.engine import working
from tests.handlers.receiver import Receiver

PAGE = page("families/webhooks")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


async def test_the_program(redis_url: str, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(PROGRAMS["hooks.py"])
    secret = SecretStr("whsec_" + base64.b64encode(os.urandom(32)).decode())
    family = load_family(WorkerSettings)
    family.ctx["settings"] = SimpleNamespace(
        var_dir=tmp_path,
        webhooks=WebhooksSettings(secrets={"shop": secret}),
        http=HttpSettings(allow=("127.0.0.1",)),
        database=DatabaseSettings(),
        database_url=SecretStr(database_url),
    )
    async with Receiver() as receiver, working(redis_url, family):
        environ = os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url, "ENDPOINT": receiver.url}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "hooks.py", cwd=tmp_path, env=environ, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 100)
    (promised,) = re.findall(r"the program prints `(.*?)`", PAGE)
    assert printed.decode().strip() == promised
    sent = receiver.requests[0].json()
    assert (sent["type"], sent["data"]) == ("order.paid", {"order": 42})


def test_the_limits_are_those_of_the_code() -> None:
    numbers, text = {"five": 5, "ten": 10}, " ".join(PAGE.split())
    (limit,) = re.findall(r"(\w+) jobs of each run at the same time \(`group_limit`\)", text)
    ((slots, all_slots),) = re.findall(r"has (\w+) of the (\w+) slots of a single process", text)
    family = load_family(WorkerSettings)
    assert (numbers[limit], numbers[slots]) == (family.values.group_limit,) * 2
    assert numbers[all_slots] == family.values.max_jobs
    assert lanes_of_settings(family)["s:g:ordered:*"] == "1||"
    assert "`ordered:* 1`" in PAGE


def test_the_other_programs_are_sound() -> None:
    names: dict[str, object] = {}
    for name in ("stripe_in.py", "shop_events.py"):
        exec(compile(PROGRAMS[name], name, "exec"), names)
    assert {"received", "paid"} <= names.keys()


def test_the_schedule_is_the_one_of_the_code() -> None:
    (row,) = re.findall(r"`standard` \((.*?), each", PAGE)
    units = {"s": 1, "min": 60, "h": 3600}
    assert tuple(int(n) * units[unit] for n, unit in re.findall(r"(\d+) (s|min|h)\b", row)) == STANDARD
