"""Real servers that speak S3, on loopback with a free port each: rclone (checks signatures) and moto (checks
conditions)."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from handlers.integrations.http_settings import HttpSettings
from handlers.integrations.object_store.s3 import S3Store
from handlers.integrations.object_store.settings import ObjectStoreSettings
from tests.servers import free_port

START_SECONDS = 60.0
PROGRAMS = Path(sys.executable).parent


class S3Server:
    """A server process of one's own with one bucket, ``files``.

    Args:
        kind: ``rclone`` or ``moto``.
        folder: where rclone keeps its objects, and both their log.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.port = free_port()
        self.access_key, self.secret_key = f"AK{secrets.token_hex(8)}", secrets.token_hex(20)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> ObjectStoreSettings:
        return ObjectStoreSettings(access_key=self.access_key, secret_key=self.secret_key, timeout=60)

    def store(self, bucket: str = "files", prefix: str = "", settings: ObjectStoreSettings | None = None) -> S3Store:
        return S3Store(bucket, prefix, self.endpoint, "us-east-1", settings or self.settings, HttpSettings())

    def start(self) -> Self:
        data = self.folder / "data"
        (data / "files").mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command(data), stdout=log, stderr=log, env=self._environment())
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.kind} did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        if self.kind == "moto":
            request = urllib.request.Request(f"{self.endpoint}/files", method="PUT")
            request.add_header("authorization", f"AWS4-HMAC-SHA256 Credential={self.access_key}/20300101/us-east-1/s3/")
            urllib.request.urlopen(request, timeout=30).close()
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _command(self, data: Path) -> list[str]:
        if self.kind == "moto":
            return [str(PROGRAMS / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]
        keys = f"{self.access_key},{self.secret_key}"
        options = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", keys, "--vfs-cache-mode", "off"]
        return [str(PROGRAMS / "rclone"), "serve", "s3", *options, "--config", "/dev/null", str(data)]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.folder)}

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=30).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
