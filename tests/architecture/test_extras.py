"""Each shipped family runs with the extra of its name and nothing more; without it a command says which one."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from handlers import FAMILIES
from tests.architecture.sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: What such an environment lacks cannot be imported.
LACKING = """
import sys
lacking = set({lacking!r})
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacking:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Lacking())
{then}
"""


def installed_by(*extras: str) -> set[str]:
    """Give the packages that ``pip install arqd[...]`` would bring."""
    waiting = [(Requirement(each), "") for each in PROJECT["dependencies"]]
    waiting += [(Requirement(each), "") for extra in extras for each in EXTRAS[extra]]
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, wanted_for = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted_for}):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name == "arqd":
                waiting += [(Requirement(each), "") for each in EXTRAS.get(extra, ())]
                continue
            try:
                waiting += [(Requirement(each), extra) for each in requires(name) or ()]
            except PackageNotFoundError:
                continue  # of another platform
    return found


def run_lacking(then: str, *extras: str) -> str:
    """Run a program where only these extras are installed; give its last line."""
    there = installed_by(*extras) | {"arqd"}
    lacking = sorted(
        module
        for module, distributions in packages_distributions().items()
        if there.isdisjoint(map(canonicalize_name, distributions))
    )
    program = LACKING.format(lacking=lacking, then=then)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


LEFT_OUT = "from handlers import FAMILIES; from daemon.registry import left_out; print(*left_out(FAMILIES))"


@pytest.mark.parametrize("family", FAMILIES)
def test_family_runs_with_the_extra_of_its_name(family: str) -> None:
    assert family not in ["left out:", *run_lacking(f"print('left out:'); {LEFT_OUT}", family).split()]


def test_without_extras_a_daemon_runs_what_it_can() -> None:
    assert set(run_lacking(LEFT_OUT).split()) == FAMILIES.keys() - {"email"}
    assert run_lacking(LEFT_OUT, "http", "database").split() == ["files", "media", "ai", "blockchain"]


def test_all_has_every_family() -> None:
    assert run_lacking(f"print('all'); {LEFT_OUT}", "all") == "all"


def test_a_family_without_its_packages_names_its_extra() -> None:
    told = "from daemon.cli.command import main; import sys; sys.stderr = sys.stdout; main(['run', 'blockchain'])"
    assert run_lacking(told, "http", "database") == (
        "arqd: the family blockchain needs web3: pip install 'arqd[blockchain]'"
    )
