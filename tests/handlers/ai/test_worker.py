"""The ai family at work: docs/families/ai.md is true, and nothing of an encrypted job is readable in Redis."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import redis

from daemon.encryption import KeyRing, generate_key
from daemon.family import load_family
from daemon.producer import Producer
from handlers.ai.payloads import GeneratedText, GenerateText
from handlers.ai.settings import AiSettings
from handlers.ai.worker import WorkerSettings
from tests.docs.pages import ROOT, page
from tests.engine import working
from tests.handlers.ai.conftest import MakeWriter
from tests.handlers.ai.endpoint import Says

PAGE = page("families/ai")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


async def test_programs(redis_url: str, writer: MakeWriter, tmp_path: Path) -> None:
    (tmp_path / "write.py").write_text(PROGRAMS["write.py"])
    answer, promised = re.findall(r"answers `(.*?)`.*?the program prints\n`(.*?)`", PAGE, re.DOTALL)[0]
    prices = {"some-model": {"input": "0.15", "output": "0.60"}}
    writing = await writer(Says(answer, usage=(12, 9)), MODEL="some-model", PRICES=json.dumps(prices))
    family = load_family(WorkerSettings)
    family.ctx["settings"] = writing.ctx["settings"]
    async with working(redis_url, family), Producer.connect(redis_url) as producer:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "write.py",
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 100)
        assert said.decode().strip() == promised
        names: dict[str, Any] = {}
        exec(compile(PROGRAMS["listen.py"], "listen.py", "exec"), names)
        job = await producer.enqueue(GenerateText(prompt="again"), job_id="heard")
        assert await asyncio.wait_for(names["listen"](producer, job.id), 60) == answer


async def test_an_encrypted_family(redis_url: str, writer: MakeWriter) -> None:
    ring = KeyRing.parse(generate_key("2026a"))
    writing = await writer(Says("three hushed words, and many more of them"))
    family = load_family(WorkerSettings, {"encrypted": True})
    family.ctx["settings"] = writing.ctx["settings"]
    async with working(redis_url, family, keyring=ring), Producer.connect(redis_url, keyring=ring) as producer:
        job = await producer.enqueue(GenerateText(prompt="whisper it", model="tiny"))
        assert (await job.result(timeout=30)).text.startswith("three hushed")
    raw = b""
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(count=1000):
            raw += key + (client.dump(key) or b"")
            if client.type(key) == b"stream":
                raw += repr(client.xrange(key)).encode()
            elif client.type(key) == b"hash":
                raw += repr(client.hgetall(key)).encode()
            elif client.type(key) == b"string":
                raw += client.get(key) or b""
    assert b"generate_text" in raw
    for word in (b"whisper", b"hushed", b"many more"):
        assert word not in raw


def test_page() -> None:
    rows = re.findall(
        r"^\| (`.*?) \|", PAGE.partition("## generate_text\n")[2].partition("The result is")[0], re.MULTILINE
    )
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(GenerateText.model_fields)
    (told,) = re.findall(r"The result is `(\{.*?\})`", PAGE, re.DOTALL)
    assert set(re.findall(r'"(\w+)"', told)) == set(GeneratedText.model_fields)
    assert set(re.findall(r"ARQD_AI__(\w+)", PAGE)) <= {name.upper() for name in AiSettings.model_fields}
