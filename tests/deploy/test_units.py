"""The units as files: what they allow, and that they fit the settings."""

from __future__ import annotations

import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from daemon.cli.command import EX_CONFIG, main
from daemon.family import FamilyValues
from daemon.settings_docs import environment_example

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
DAEMONS = [unit for unit in SERVICES if unit.stem != "arqd-db-upgrade"]


def directives(unit: Path) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return parser


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_service_is_exposed_little(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert directives(unit)["Service"]["User"] == "arqd"


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda unit: unit.stem)
def test_a_service_is_watched_and_not_restarted_for_a_wrong_configuration(unit: Path) -> None:
    service = directives(unit)["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "on-failure")
    assert service["RestartPreventExitStatus"] == str(EX_CONFIG)
    assert int(service["WatchdogSec"]) >= 30
    assert "arqd up" not in unit.read_text(), "that would start an embedded Valkey"


def test_a_worker_may_drain() -> None:
    service = directives(FOLDER / "arqd@.service")["Service"]
    assert int(service["TimeoutStopSec"]) >= FamilyValues().drain_timeout
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_example_of_settings_is_up_to_date() -> None:
    assert (FOLDER / "arqd.env.example").read_text() == environment_example(), "run: python -m daemon.settings --write"


def test_units_are_printed_for_this_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-systemd"]) == 0
    printed = capsys.readouterr().out
    assert "/opt/arqd/bin/arqd" not in printed
    assert [line.removeprefix("# --- ") for line in printed.splitlines() if line.startswith("# --- ")] == sorted(
        path.name for path in FOLDER.iterdir() if path.suffix in (".service", ".target", ".slice")
    )
