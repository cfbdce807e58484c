"""What docs/families/blockchain.md shows is true: its program runs, its tables name what there is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from daemon.family import load_family
from handlers.blockchain.payloads import HandleEvent, IndexedRange, IndexEvents, VerifiedEvent
from handlers.blockchain.settings import BlockchainSettings
from handlers.blockchain.worker import WorkerSettings
from tests.anvil import WINNER
from tests.docs.pages import ROOT, page
from tests.engine import working
from tests.handlers.blockchain.support import CONFIRMATIONS, Chain

PAGE = page("families/blockchain")


async def test_program(redis_url: str, chain: Chain, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (printed,) = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "allocated.py").write_text(program)
    sent = chain.tickets.allocate()
    chain.node.mine(CONFIRMATIONS)
    names = {"CONTRACT": chain.tickets.address, "WINNER": WINNER, "TRANSACTION": sent, "NETWORK": "31337"}
    family = load_family(WorkerSettings)
    family.ctx["settings"] = chain.ctx["settings"]
    async with working(redis_url, family):
        environ = os.environ | names | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "allocated.py", cwd=tmp_path, env=environ, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(process.communicate(), 100)
    assert said.decode() == printed


def test_commands_and_settings() -> None:
    (given,) = re.findall(r"arqd schedule add tickets index_events .* --json '(.*)'", PAGE)
    assert IndexEvents.model_validate(json.loads(given)).start_block == 19_000_000
    variables = set(re.findall(r"ARQD_BLOCKCHAIN__(\w+)", PAGE))
    assert variables <= {name.upper() for name in BlockchainSettings.model_fields}


def named(section: str) -> set[str]:
    """Give the fields in the first column of a section's table."""
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_tables() -> None:
    handle, _, index = PAGE.partition("## handle_event\n")[2].partition("## index_events\n")
    for section, job, result in ((handle, HandleEvent, VerifiedEvent), (index, IndexEvents, IndexedRange)):
        assert named(section) == set(job.model_fields)
        (told,) = re.findall(r"The result is `(\{.*?\})`", section, re.DOTALL)
        assert set(re.findall(r'"(\w+)"', told)) == set(result.model_fields)
