"""The scripts, one file each, loaded once; ``prelude.lua`` is put before every one of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

NAMES = ("enqueue", "tick", "sync", "renew", "await", "abort", "redrive", "remove", "progress")


@dataclass(frozen=True, slots=True)
class Script:
    """A script's full text and the SHA-1 that EVALSHA names it by."""

    name: str
    text: str
    sha: str


def _load(name: str) -> Script:
    folder = Path(__file__).parent
    text = (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


SCRIPTS = {name: _load(name) for name in NAMES}
