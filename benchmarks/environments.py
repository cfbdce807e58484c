"""Environments of the peers: a virtual one for each in Python, a folder of node_modules for BullMQ.

Made when first needed, with the versions that `benchmarks.systems` names, and kept in a cache folder; other versions
there make it anew. Nothing of them gets into arqd's own environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.systems import System
from daemon.errors import ConfigurationError

INSTALL_SECONDS = 600
MARK = "installed"


def prepared(system: System, cache: Path) -> Path:
    """Give the folder of a system's environment, made if needed; of arqd the one that runs.

    Raises:
        ConfigurationError: when node or npm is missing, or an installation fails.
    """
    if system.environment is None:
        return Path(sys.prefix)
    folder = (cache / system.environment).resolve()
    mark, wanted = folder / MARK, "\n".join(system.packages)
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"installing {', '.join(system.packages)}", file=sys.stderr)
    if system.module.endswith(".mjs"):
        if shutil.which("npm") is None:
            raise ConfigurationError(f"{system.title} needs Node and npm: install them, or leave it out with --peers")
        _run(system, "npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", *system.packages)
    else:
        _run(system, sys.executable, "-m", "venv", str(folder))
        _run(system, str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *system.packages)
    mark.write_text(wanted, encoding="utf-8")
    return folder


def _run(system: System, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"installing {system.title} took more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        raise ConfigurationError(f"{system.title} cannot be installed: {done.stderr.strip()[-500:]}")
