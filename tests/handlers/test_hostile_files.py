"""Every hostile file through a real worker of both families: its outcome, and that nothing is left or dead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import JobFailed
from daemon.family import load_family
from daemon.producer import Producer
from handlers.files.worker import WorkerSettings as FilesWorker
from handlers.media.settings import MediaSettings
from handlers.media.worker import WorkerSettings as MediaWorker
from tests.engine import run_burst
from tests.handlers.files.conftest import EVERYTHING, clamd, settings_in
from tests.handlers.hostile import Hostile, pictures, uploads
from tests.scanner import Scanner

__all__ = ["clamd"]
LEAST = 60


# Some seventy jobs, and bombs among them: about ten seconds where nothing else runs.
@pytest.mark.timeout(480)
async def test_hostile_files(redis_url: str, producer: Producer, tmp_path: Path, clamd: Scanner) -> None:
    settings = settings_in(
        tmp_path, clamd=clamd.addresses["unix"], types=EVERYTHING, max_members=500, memory=300_000_000
    )
    source, temp = tmp_path / "in", tmp_path / "temp"
    settings.media = MediaSettings(source_dirs=(source,), temp_dir=temp, processes=1, memory=150_000_000)
    families = [load_family(worker, {"max_tries": 1, "job_timeout": 150}) for worker in (FilesWorker, MediaWorker)]
    for family in families:
        family.ctx["settings"] = settings
    given: list[tuple[str, Hostile, dict[str, Any]]] = []
    for number, each in enumerate(pictures()):
        given.append(("process_image", each, {"target": f"made/image-{number}"}))
    for number, each in enumerate(uploads()):
        given.append(("process_file", each, {"file_id": f"file-{number}", "file_name": "upload.bin"}))
    assert len(given) >= LEAST
    jobs = []
    for number, (function, each, fields) in enumerate(given):
        (source / str(number)).write_bytes(each.content)
        payload = {"path": str(number), **fields, **each.fields}
        family_name = "media" if function == "process_image" else "files"
        jobs.append(await producer.enqueue(function, payload, family=family_name))
    supervisor = await run_burst(redis_url, *families, timeout=170)
    wrong = []
    for (_, each, _), job in zip(given, jobs, strict=True):
        try:
            await job.result(30)
            told = ""
        except JobFailed as error:
            told = f"{error.type}: {error.message}"
        if "|" in each.told:
            print("OUT", each.name, "::", told)
        if not (re.search(each.told, told) if each.told else told == ""):
            wrong.append((each.name, each.told, told))
        if each.without:
            found = [path.read_bytes() for path in (tmp_path / "objects").rglob("*") if path.is_file()]
            assert not any(each.without in content for content in found if each.content != content), each.name
    assert wrong == []
    infos = [await job.info() for job in jobs]
    assert [info.crashes for info in infos] == [0] * len(jobs)
    assert supervisor.state == "stopped"
    assert list(temp.iterdir()) == []
