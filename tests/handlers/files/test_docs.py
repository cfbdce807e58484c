"""What docs/families/files.md shows is true."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

from daemon.family import load_family
from handlers.files.payloads import FileOperation, ProcessFile
from handlers.files.settings import FilesSettings
from handlers.files.worker import WorkerSettings
from tests.docs.pages import ROOT, names, page
from tests.engine import working
from tests.handlers.files.documents import pdf

PAGE = page("families/files")


async def test_the_program(redis_url: str, settings: SimpleNamespace, tmp_path: Path) -> None:
    (name, program) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)[0]
    (printed,) = re.findall(r"it prints\n\n```\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / name).write_text(program)
    (tmp_path / "in" / "invoice.pdf").write_bytes(pdf("Invoice 42"))
    family = load_family(WorkerSettings)
    family.ctx["settings"] = settings
    async with working(redis_url, family):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / name),
            env=os.environ | {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert said.decode() == printed


def cells(head: str) -> list[str]:
    """What the first cells of a table name, in their order."""
    table = PAGE.partition(head)[2].partition("\n\n")[0]
    return [name for line in table.splitlines()[2:] for name in names(line.split("|")[1])]


def test_tables_name_what_there_is() -> None:
    assert cells("| operation | |") == list(get_args(FileOperation))
    assert set(cells("| field | |")) == set(ProcessFile.model_fields)
    named = set(re.findall(r"`ARQD_FILES__(\w+?)(?:=\w+)?`", PAGE))
    assert named <= {name.upper() for name in FilesSettings.model_fields}
