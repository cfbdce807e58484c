"""The pages on services outside: their programs run, their commands print what stands below them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from handlers.integrations.http_settings import HttpSettings
from tests.docs.pages import ROOT, page

DATABASE, HTTP, OUTBOX, STORE = page("database"), page("http"), page("outbox"), page("object-store")


def run(folder: Path, text: str, **environ: str) -> str:
    """Run a line of a shell in a folder with the pages' programs."""
    for name, program in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DATABASE + HTTP + OUTBOX + STORE, re.DOTALL):
        (folder / name).write_text(program)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n{text}'
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_print_what_stands_below_them(redis_url: str, tmp_path: Path) -> None:
    for text in (DATABASE, HTTP, STORE):
        (block,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line, output in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", block, re.MULTILINE):
            printed = run(tmp_path, line, ARQD_REDIS_URL=redis_url).replace(tmp_path.as_uri(), "file:///srv/shop")
            assert printed == output


def test_the_program_with_tables(tmp_path: Path) -> None:
    (printed,) = re.findall(r"It prints `(.*?)`", DATABASE)
    assert run(tmp_path, "python orders.py").strip() == printed


def test_settings_are_there() -> None:
    named = set(re.findall(r"`ARQD_HTTP__(\w+)`", HTTP))
    assert named <= {name.upper() for name in HttpSettings.model_fields}
    assert HttpSettings(allow=tuple(re.findall(r'ALLOW="(.*?)"', HTTP)[0].split())).allow


def test_the_outbox(redis_url: str, tmp_path: Path) -> None:
    """Its commands one after the other, then the programs with a fallback and with Django; each job is there once."""
    (block,) = re.findall(r"```console\n(.*?)```", OUTBOX, re.DOTALL)
    environ = {"ARQD_REDIS_URL": redis_url}
    for line, output in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", block, re.MULTILINE):
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            environ[name] = value
        else:
            assert run(tmp_path, line, **environ) == output
    (printed,) = re.findall(r"It prints `(.*?)`", OUTBOX)
    assert run(tmp_path, "python fallback.py", **environ).strip() == printed
    assert run(tmp_path, "python shop.py", **environ) == "order 2 is rolled back\n"
    run(tmp_path, "arqd outbox --burst", **environ)
    found = run(tmp_path, "arqd jobs email --state waiting --json", **environ)
    assert sorted(re.findall(r'"id": "email:(.*?)"', found)) == ["bob", "django-1", "order-42"]
