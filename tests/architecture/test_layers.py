"""Who may import whom."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from sys import stdlib_module_names

import pytest

from handlers import FAMILIES
from tests.architecture.sources import MODULES, ROOT, imports, inside, tree

DAEMON = [module for module in MODULES if inside(module, "daemon")]
HANDLERS = [module for module in MODULES if inside(module, "handlers")]
FAMILY_PACKAGES = {target.partition(":")[0].rpartition(".")[0] for target in FAMILIES.values()}


@pytest.mark.parametrize("module", DAEMON)
def test_daemon_knows_no_handlers(module: str) -> None:
    if module == "daemon.dotted":
        # The table of families is all it may take; what stands in the table it imports by name.
        assert [name for name in imports(module) if inside(name, "handlers")] in ([], ["handlers.FAMILIES"])
    else:
        assert [name for name in imports(module) if inside(name, "handlers")] == []


@pytest.mark.parametrize("module", [module for module in DAEMON if module != "daemon.dotted"])
def test_only_the_registry_imports_by_name(module: str) -> None:
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
    }
    assert called.isdisjoint({"import_module", "__import__", "run_module", "run_path"})


@pytest.mark.parametrize("module", [module for module in MODULES if not inside(module, "daemon.testing")])
def test_nothing_needs_the_test_kit(module: str) -> None:
    assert [name for name in imports(module) if inside(name, "daemon.testing")] == []


@pytest.mark.parametrize("module", HANDLERS)
def test_families_stand_alone(module: str) -> None:
    own = {package for package in FAMILY_PACKAGES if inside(module, package)}
    others = [name for name in imports(module) for package in FAMILY_PACKAGES - own if inside(name, package)]
    assert others == [], "what two families need belongs in handlers.integrations"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_reads_the_environment(module: str) -> None:
    # The embedded server reads nothing of it, but hands it on to the process that it starts.
    if module in {"daemon.settings", "daemon.embedded"} or inside(module, "daemon.cli"):
        return
    reads = [
        f"line {node.lineno}"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    ]
    assert reads == [], "settings are passed down"


def test_every_library_used_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [each for name in extras.keys() - {"test", "dev"} for each in extras[name]]
    declared = {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    declared.add("pydantic-core")  # pydantic pins it exactly
    distributions = packages_distributions()
    missing = {
        f"{module}: {top}"
        for module in MODULES
        for top in {name.partition(".")[0] for name in imports(module)}
        # What only pytest loads may import it.
        if (module, top) != ("daemon.testing.plugin", "pytest")
        if top not in stdlib_module_names | {"daemon", "handlers", "benchmarks"}
        and declared.isdisjoint(name.lower().replace("_", "-") for name in distributions.get(top, [top]))
    }
    assert missing == set()
