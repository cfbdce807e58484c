"""The annotation of the pod, written to a server that speaks as Kubernetes' API does for it, with TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from daemon.probe import deletion_cost
from daemon.probe.deletion_cost import ANNOTATION, Pod, keep_cost
from tests.certificates import certificate


class Api(ThreadingHTTPServer):
    """Keeps what was asked; ``refuse`` answers 403."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.costs: list[str] = []
        self.refuse = False


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        good = (
            self.path == "/api/v1/namespaces/arqd/pods/worker-1"
            and self.headers["authorization"] == "Bearer token"
            and self.headers["content-type"] == "application/merge-patch+json"
        )
        if good and not self.server.refuse:
            self.server.costs.append(body["metadata"]["annotations"][ANNOTATION])
        self.send_response(200 if good and not self.server.refuse else 403)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Api, Pod]]:
    key, cert = certificate(tmp_path)
    (tmp_path / "ca.crt").write_bytes(cert.read_bytes())
    (tmp_path / "token").write_text("token\n")
    server = Api()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server, Pod(f"https://127.0.0.1:{server.server_port}", "arqd", "worker-1", tmp_path)
    server.shutdown()
    thread.join()
    server.server_close()


async def until(server: Api, costs: list[str]) -> None:
    async with asyncio.timeout(60):
        while server.costs != costs:
            await asyncio.sleep(0.01)


async def test_the_number_of_running_jobs_is_the_cost(
    api: tuple[Api, Pod], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deletion_cost, "LOOK_SECONDS", 0.02)
    server, pod = api
    files = [tmp_path / "heartbeat-1.json", tmp_path / "heartbeat-2.json"]

    def beat(*running: int) -> None:
        for file, number in zip(files, running, strict=True):
            file.write_text(json.dumps({"time": 1, "families": {"email": {"running": number}}}))

    keeping = asyncio.create_task(keep_cost(pod, lambda: files))
    try:
        await until(server, ["0"])
        beat(2, 3)
        await until(server, ["0", "5"])
        server.refuse = True
        beat(1, 0)
        async with asyncio.timeout(60):
            while "not written: HTTP Error 403" not in caplog.text:
                await asyncio.sleep(0.01)
        server.refuse = False
        await until(server, ["0", "5", "1"])
        assert caplog.text.count("not written") == 1
    finally:
        keeping.cancel()
