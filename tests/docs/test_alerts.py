"""docs/alerts.md: its table is that of the code, its settings can be set, its commands run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from daemon.alerts.rules import ALERTS
from daemon.settings import load_settings
from tests.docs.pages import ROOT, name, page, table

TEXT = page("alerts")


def test_the_table_has_every_alert_with_its_severity() -> None:
    assert {name(row[0]): row[1] for row in table(TEXT, "alerts")} == {
        alert: str(severity) for alert, (severity, _) in ALERTS.items()
    }


def test_what_stands_there_can_be_set() -> None:
    lines = re.findall(r"^(ARQD_ALERTS__\w+)=(.*)$", TEXT, re.MULTILINE)
    settings = load_settings({variable: value.strip('"') for variable, value in lines}).alerts
    assert settings.waiting.of("email") == 1000
    assert settings.waiting.of("exports") is None
    assert settings.channels.keys() == {"ops", "pager", "sms", "mail", "hook", "events"}
    assert settings.critical == ("ops", "pager", "sms")
    assert [str(each) for each in settings.objectives] == ["email 95% 30s", "email/acme 99% 120s"]
    assert load_settings({"ARQD_ALERTS__CRITICAL": " "}).alerts.critical == ()


def test_its_commands_run(redis_url: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    script = f'set -e\narqd() {{ "{sys.executable}" -m daemon "$@"; }}\n' + re.sub(
        r"^\$ ", "", block, flags=re.MULTILINE
    )
    environ = {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "new machines" in done.stdout
