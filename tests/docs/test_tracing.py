"""docs/tracing.md: its program runs, its settings can be set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from daemon.settings import load_settings
from tests.docs.pages import ROOT, page


def test_its_program_traces(redis_url: str, tmp_path: Path) -> None:
    ((name, text),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page("tracing"), re.DOTALL)
    (tmp_path / name).write_text(text)
    environ = {**os.environ, "ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, name], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "enqueue greetings"


def test_its_settings_can_be_set() -> None:
    settings = load_settings(dict(re.findall(r"^(ARQD_\w+)=(.*)$", page("tracing"), re.MULTILINE)))
    assert settings.traces.sample == 0.01
    assert settings.sentry.environment == "production"
