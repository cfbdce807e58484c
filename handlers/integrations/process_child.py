"""What runs in a process of `handlers.integrations.processes`: takes a call, does it within its limits, answers.

A message is eight bytes of length and JSON. Nothing here is pickled: what comes back from a process that has read a
hostile file is data and no more.

    parent → child   {"call": "module:function", "arguments": {…}, "memory": bytes, "files": number}, files beside it
    child → parent   {"tell": {…}} any number of times, then one of {"result": {…}}, {"refused": text},
                     {"memory": true}, {"failed": text, "traceback": text}
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.errors import PermanentError
from daemon.process.pool import follow_parent

LENGTH = 8
#: Longest message, bytes: what is larger goes into a file.
LONGEST = 16 * 1024 * 1024
MOST_FILES = 64
#: Added to the niceness of a process: the worker itself and its leases come first.
NICE = 10

#: Tells the caller how far the work is.
Tell = Callable[[Mapping[str, Any]], None]


def main(number: int, parent: int) -> None:
    """Serve calls until the parent closes its end.

    Args:
        number: descriptor of the socket to the parent.
        parent: its process id.
    """
    follow_parent(parent)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=number) as parent_socket:
        while (request := _received(parent_socket)) is not None:
            _send(parent_socket, _done(parent_socket, *request))


def message(content: Mapping[str, Any]) -> bytes:
    """Write a message."""
    body = json.dumps(content).encode()
    return len(body).to_bytes(LENGTH, "big") + body


def _received(parent: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    head, files, _, _ = socket.recv_fds(parent, LENGTH, MOST_FILES)
    if not head:
        return None
    body = _exactly(parent, int.from_bytes(head + _exactly(parent, LENGTH - len(head)), "big"))
    return json.loads(body), files


def _exactly(parent: socket.socket, size: int) -> bytes:
    held = bytearray()
    while len(held) < size:
        if not (chunk := parent.recv(size - len(held))):
            raise EOFError
        held += chunk
    return bytes(held)


def _send(parent: socket.socket, content: Mapping[str, Any]) -> None:
    parent.sendall(message(content))


def _done(parent: socket.socket, request: Mapping[str, Any], files: list[int]) -> dict[str, Any]:
    opened = [os.fdopen(number, "r+b" if _writable(number) else "rb") for number in files]
    try:
        _limit_memory(request["memory"])
        module, _, name = request["call"].partition(":")
        function = getattr(importlib.import_module(module), name)
        result = function(request["arguments"], opened, lambda told: _send(parent, {"tell": told}))
        for file in opened:
            file.flush()
        return {"result": result}
    except PermanentError as error:
        return {"refused": str(error)[:1000]}
    except MemoryError:
        return {"memory": True}
    except Exception as error:
        told = f"{type(error).__name__}: {error}"[:1000]
        return {"failed": told, "traceback": traceback.format_exc()[-4000:]}
    finally:
        for file in opened:
            file.close()


def _writable(number: int) -> bool:
    return bool(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_RDWR)


def _limit_memory(most: int) -> None:
    """Let the job have so many bytes more than the process has now."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + most, hard))
