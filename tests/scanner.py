"""A real clamd for the tests, which knows one signature: EICAR's, put together when the test runs."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.servers import free_port

START_SECONDS = 60.0
#: Largest stream it takes, bytes.
LONGEST = 2_000_000


def eicar() -> bytes:
    """The harmless file that every scanner finds."""
    return b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!" + b"$H+H*"


class Scanner:
    """A clamd on a socket and a port of its own."""

    def __init__(self) -> None:
        # A short path: that of a socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="arqd-clamd-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def addresses(self) -> dict[str, str]:
        return {"unix": f"unix://{self.folder}/clamd.ctl", "tcp": f"tcp://127.0.0.1:{self.port}"}

    def start(self) -> Self:
        program = shutil.which("clamd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program is not None, "there is no clamd: sh scripts/test_tools.sh installs it"
        data = self.folder / "signatures"
        data.mkdir()
        (data / "local.ndb").write_text(f"Eicar-Test-Signature:0:*:{eicar().hex()}\n")
        settings = {
            "LocalSocket": self.folder / "clamd.ctl",
            "TCPSocket": self.port,
            "TCPAddr": "127.0.0.1",
            "DatabaseDirectory": data,
            "TemporaryDirectory": self.folder,
            "StreamMaxLength": LONGEST,
            "Foreground": "yes",
            "MaxThreads": 4,
        }
        config = self.folder / "clamd.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                told = (self.folder / "log").read_text()[-2000:]
                self.stop()
                raise RuntimeError(f"clamd did not start:\n{told}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
