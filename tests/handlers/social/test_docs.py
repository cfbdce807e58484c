"""What docs/families/social.md shows is true: its programs run, its tables name what there is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.family import load_family
from daemon.settings import load_settings
from handlers.social import drivers
from handlers.social.payloads import CollectedMentions, CollectMentions, PublishedPost, PublishPost
from handlers.social.settings import SocialSettings
from handlers.social.worker import WorkerSettings
from tests.docs.pages import ROOT, page
from tests.engine import working
from tests.handlers.receiver import Receiver
from tests.handlers.social.conftest import Square
from tests.handlers.social.networks import told

PAGE = page("families/social")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


async def test_program(redis_url: str, square: Square, tmp_path: Path) -> None:
    (printed,) = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "post.py").write_text(PROGRAMS["post.py"])
    server = square.servers["mastodon"]
    account = {"network": "mastodon", "url": server.url, "token": server.token}
    environ = {"ARQD_DATABASE_URL": square.service.database.url.render_as_string(hide_password=False)}
    environ["ARQD_DATABASE_URL"] = re.sub(r"\+\w+:", ":", environ["ARQD_DATABASE_URL"])
    environ |= {"ARQD_VAR_DIR": str(tmp_path), "ARQD_SOCIAL__ACCOUNTS": json.dumps({"acme": account})}
    family = load_family(WorkerSettings)
    family.ctx["settings"] = load_settings(environ)
    async with working(redis_url, family):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "post.py",
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 100)
    assert said.decode() == printed
    assert len(server.posts) == 1


async def test_a_network_of_ones_own(square: Square, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_drivers", dict(drivers._drivers))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pigeons", raising=False)
    (tmp_path / "pigeons.py").write_text(PROGRAMS["pigeons.py"])
    makers = drivers.load_drivers(("pigeons",))
    async with Receiver() as loft:
        loft.usual = told({"id": 5})
        account = {"network": "pigeon", "url": loft.url, "token": "none"}
        settings = load_settings({"ARQD_SOCIAL__ACCOUNTS": json.dumps({"coo": account})}).section("social")
        made = makers["pigeon"](square.service.http, settings.accounts["coo"])
        fields = {name: getattr(square.service, name) for name in square.service.__dataclass_fields__}
        service: Any = type(square.service)(**(fields | {"settings": settings, "accounts": {"coo": made}}))
        square.ctx["social"], usual = service, square.service
        try:
            run = await square.run(square.post("pigeon", account_id="coo"))
            assert run.value().id == "5"
            collected = await square.run(square.collecting("pigeon", account_id="coo"))
            assert collected.value().found == 0
        finally:
            square.ctx["social"] = usual


def test_tables_and_settings() -> None:
    (given,) = re.findall(r"arqd schedule add mentions collect_mentions .* --json '(.*)'", PAGE)
    assert CollectMentions.model_validate(json.loads(given)).query is None
    publish, _, collect = PAGE.partition("## publish_post\n")[2].partition("## collect_mentions\n")
    collect = collect.partition("## A network")[0]
    for section, job, result in (
        (publish, PublishPost, PublishedPost),
        (collect, CollectMentions, CollectedMentions),
    ):
        rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(job.model_fields)
        (promised,) = re.findall(r"[Tt]he result is `(\{.*?\})`", section, re.DOTALL)
        assert set(re.findall(r'"(\w+)"', promised)) == set(result.model_fields)
    assert set(re.findall(r"ARQD_SOCIAL__(\w+)", PAGE)) <= {name.upper() for name in SocialSettings.model_fields}
    (accounts,) = re.findall(r"ARQD_SOCIAL__ACCOUNTS='(.*?)'", PAGE, re.DOTALL)
    assert set(SocialSettings(accounts=json.loads(accounts)).accounts) == {"acme", "acme-sky"}
