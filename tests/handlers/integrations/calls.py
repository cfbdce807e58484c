"""What the tests of processes call in one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from daemon.errors import PermanentError


def do(arguments: Mapping[str, Any], files: list[BinaryIO], tell: Any) -> dict[str, Any]:
    """Do what ``arguments["do"]`` says."""
    what = arguments["do"]
    if what == "tell":
        return {"pid": os.getpid(), "nice": os.nice(0), "environment": sorted(os.environ)}
    if what == "files":
        files[1].write(files[0].read()[::-1])
        tell({"at": 50})
        return {"read_only": files[0].mode == "rb"}
    if what == "use":
        held = bytearray(arguments["bytes"])
        return {"used": len(held)}
    if what == "refuse":
        raise PermanentError("not this one")
    if what == "raise":
        raise RuntimeError("unforeseen")
    if what == "die":
        os.kill(os.getpid(), arguments["signal"])
    tell({"pid": os.getpid()})
    time.sleep(60)
    return {}
