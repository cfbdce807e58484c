"""How the command can be typed where it was started: it is on PATH, or in a virtual environment that is not."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def typed(started: str = "") -> str:
    """Give the beginning of a command line: ``arqd``, or what stands for it where PATH has another one or none.

    Args:
        started: how it was started; default ``sys.argv[0]``.
    """
    started = started or sys.argv[0]
    if Path(started).name != "arqd":
        return f"{shlex.quote(sys.executable)} -m daemon"
    found = shutil.which("arqd")
    return "arqd" if found and Path(found).samefile(started) else shlex.quote(started)
