"""What docs/families/media.md shows is true."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from daemon.family import Family
from handlers.integrations.pictures.fitting import fitted
from handlers.media.payloads import ProcessImage, ProcessVideo, Transformation
from tests.docs.pages import ROOT, names, page
from tests.engine import working
from tests.handlers.media.pictures import photograph, written
from tests.handlers.receiver import Answer, Receiver

PAGE = page("families/media")


async def test_the_program(redis_url: str, family: Family, tmp_path: Path) -> None:
    (name, program) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)[0]
    (printed,) = re.findall(r"it prints `(avatars.*?)`", PAGE)
    (tmp_path / name).write_text(program)
    async with Receiver(Answer(200, written(photograph(640, 480)))) as web, working(redis_url, family):
        environ = {"ARQD_REDIS_URL": redis_url, "PICTURE": web.url, "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(tmp_path / name), env=os.environ | environ, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    assert said.decode().strip() == printed
    assert (tmp_path / "objects" / "avatars" / "7.webp").exists()


def rows(head: str) -> dict[str, str]:
    """The rows of a table by what stands in their first cell."""
    table = PAGE.partition(head)[2].partition("\n\n")[0]
    return {cells[1]: cells[2] for cells in (line.split("|") for line in table.splitlines()[1:] if line)}


def test_tables_name_what_there_is() -> None:
    kinds: list[Any] = [get_args(each)[0] for each in get_args(get_args(Transformation)[0])]
    named = {name for cell in rows("| type | |") for name in names(cell)}
    assert named == {kind for model in kinds for kind in get_args(model.model_fields["type"].annotation)}
    fields = {name for cell in rows("| field | |") for name in names(cell)}
    assert fields == set(ProcessImage.model_fields)
    settings = set(re.findall(r"`ARQD_MEDIA__(\w+)`", PAGE))
    assert settings <= {"SOURCE_DIRS", "TARGET_DIRS", "TEMP_DIR", "PROCESSES", "MEMORY", "MAX_IMAGE", "MAX_PIXELS"} | {
        "VIDEO_MEMORY",
        "MAX_VIDEO",
        "MAX_VIDEO_RESULT",
    }
    video = {name for cell in rows("| video field | |") for name in names(cell)}
    assert video | {"url", "path", "key", "user_id", "delete_source"} == set(ProcessVideo.model_fields)


@pytest.mark.parametrize("fit", ["cover", "contain", "fill", "inside", "outside"])
def test_sizes(fit: str) -> None:
    told = next(size for cell, size in rows("| fit | ").items() if names(cell)[:1] == [fit])
    assert tuple(map(int, told.strip().split("×"))) == fitted((4000, 3000), 200, 200, fit).frame
