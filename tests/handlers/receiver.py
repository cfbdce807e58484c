"""A small HTTP server in the test's own event loop, which answers as it is told and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say to a request.

    Attributes:
        cut: close the connection instead: ``before`` the request counts as taken, or ``after`` it.
        twice: say it twice, as a server does that has lost count.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: str = ""
    twice: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What came; names of headers are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """The server. ``answers`` are given in turn, then ``usual``; ``taken`` are the requests it has acted on."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: list[Answer] = list(answers)
        self.usual = Answer()
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()

    def answer(self, request: Request) -> Answer:
        """Decide on a request; a service of its own overrides this."""
        return self.answers.pop(0) if self.answers else self.usual

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request = await _read(head, reader)
                self.requests.append(request)
                answer = self.answer(request)
                if answer.cut == "before":
                    break
                if answer.cut or answer.status < 300:
                    self.taken.append(request)
                if answer.cut == "after":
                    break
                lines = [f"HTTP/1.1 {answer.status} X", f"content-length: {len(answer.body)}"]
                lines += [f"{name}: {value}" for name, value in answer.headers.items()]
                whole = "\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body
                writer.write(whole * (2 if answer.twice else 1))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(head: bytes, reader: asyncio.StreamReader) -> Request:
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def statuses(*codes: int) -> Sequence[Answer]:
    """Answers with these statuses."""
    return [Answer(code) for code in codes]
