"""A client of clamd, the daemon of ClamAV: files are sent to it in pieces, so it needs to see no disk of ours."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from daemon.errors import PermanentError

#: What is sent at a time, bytes.
PIECE = 256 * 1024


class ScannerUnavailable(Exception):
    """The virus scanner was not reached, or is not able to scan now: try again."""


class ScannerRefused(PermanentError):
    """The virus scanner does not take the file: it is larger than its StreamMaxLength."""


class Clamd:
    """Talks to a clamd; each scan has a connection of its own.

    Args:
        address: ``unix:///path`` or ``tcp://host:port``.
        timeout: limit on its silence, seconds.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self._parts = urlsplit(address)
        self._timeout = timeout

    async def scan(self, file: BinaryIO) -> str | None:
        """Scan a file, and give the name of what was found, None for a clean one.

        Raises:
            ScannerRefused: it is too large for the scanner.
            ScannerUnavailable: no answer, or one that is neither.
        """
        answer = await self._asked(b"zINSTREAM\0", file)
        if answer == "stream: OK":
            return None
        if found := re.fullmatch(r"stream: (.*) FOUND", answer):
            return found[1]
        if "size limit exceeded" in answer:
            raise ScannerRefused("the file is larger than the virus scanner takes (StreamMaxLength of clamd.conf)")
        raise ScannerUnavailable(f"the virus scanner answers {answer[:200]!r}")

    async def version(self) -> str:
        """Give what it calls itself, its signatures included."""
        return await self._asked(b"zVERSION\0")

    async def _asked(self, command: bytes, file: BinaryIO | None = None) -> str:
        parts = self._parts
        family = socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET
        where: Any = parts.path if parts.scheme == "unix" else (parts.hostname, parts.port)
        loop = asyncio.get_running_loop()
        with socket.socket(family, socket.SOCK_STREAM) as scanner:
            scanner.setblocking(False)
            try:
                async with asyncio.timeout(self._timeout):
                    if family == socket.AF_INET:
                        where = (await loop.getaddrinfo(*where, family=family, type=socket.SOCK_STREAM))[0][4]
                    await loop.sock_connect(scanner, where)
            except (OSError, TimeoutError) as error:
                told = str(error) or "no answer"
                raise ScannerUnavailable(f"the virus scanner at {self.address} is not reached: {told}") from error
            # Read from the beginning: one that refuses a file says so and hangs up in the middle of it.
            answer = asyncio.ensure_future(self._answer(scanner))
            try:
                with suppress(BrokenPipeError, ConnectionResetError):
                    await self._send(scanner, command, file, answer)
                return await asyncio.wait_for(answer, self._timeout)
            except (OSError, TimeoutError) as error:
                told = str(error) or "no answer in time"
                raise ScannerUnavailable(f"the virus scanner at {self.address} broke off: {told}") from error
            finally:
                answer.cancel()

    async def _send(
        self, scanner: socket.socket, command: bytes, file: BinaryIO | None, answer: asyncio.Future[str]
    ) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(scanner, command)
        if file is None:
            return
        file.seek(0)
        while not answer.done() and (piece := await asyncio.to_thread(file.read, PIECE)):
            async with asyncio.timeout(self._timeout):
                await loop.sock_sendall(scanner, len(piece).to_bytes(4, "big") + piece)
        await loop.sock_sendall(scanner, bytes(4))

    async def _answer(self, scanner: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        held = b""
        while not held.endswith(b"\0"):
            if not (chunk := await loop.sock_recv(scanner, 4096)):
                raise ConnectionError("it hung up without an answer")
            held += chunk
        return held[:-1].decode("utf-8", "replace").strip()
