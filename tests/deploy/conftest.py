"""Fixtures of the deployment: an installation, a real systemd, real pods. `make test-deploy` runs what needs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import host, installed
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what belongs at /opt/arqd, the tests' own family in it."""
    if lacking := installed.missing():
        pytest.fail(f"make test-deploy needs {lacking}", pytrace=False)
    home = tmp_path_factory.mktemp("installation") / "arqd"
    packages = installed.install(home)
    (packages / "deploy_family.py").write_text(Path(__file__).with_name("family.py").read_text())
    home.parent.chmod(0o755)
    return home


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    """A Valkey with a socket file in a folder that others may enter."""
    folder = tmp_path / "valkey"
    folder.mkdir(mode=0o755)
    server = RedisServer(folder, unixsocket=folder / "valkey.sock", unixsocketperm="777", appendonly="yes")
    yield server.start()
    server.kill()


@pytest.fixture
def machine(tmp_path: Path, installation: Path, valkey: RedisServer) -> Iterator[host.Host]:
    """A machine with systemd, arqd at /opt/arqd, and Valkey's socket in /srv/valkey."""
    if lacking := host.missing():
        pytest.fail(f"make test-deploy needs {lacking}", pytrace=False)
    work = tmp_path / "machine"
    work.mkdir()
    binds = {
        installed.HOME: installation,
        installed.LIBRARIES: installed.libraries(),
        "/srv/valkey": valkey.data_dir,
    }
    with host.Host(work, binds) as running:
        yield running
