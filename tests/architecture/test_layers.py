"""Who may import whom."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import packages_distributions
from sys import stdlib_module_names

from handlers import FAMILIES
from tests.architecture.sources import MODULES, ROOT, imports, inside, tree

DAEMON = [module for module in MODULES if inside(module, "daemon")]
HANDLERS = [module for module in MODULES if inside(module, "handlers")]
FAMILY_PACKAGES = {target.partition(":")[0].rpartition(".")[0] for target in FAMILIES.values()}


def test_daemon_knows_no_handlers() -> None:
    found = faults(DAEMON, lambda module: {name for name in imports(module) if inside(name, "handlers")})
    # The table of families is all it may take; what stands in the table it imports by name.
    assert found in ({}, {"daemon.dotted": {"handlers.FAMILIES"}})


def test_only_the_registry_imports_by_name() -> None:
    by_name = {"import_module", "__import__", "run_module", "run_path"}
    assert faults(DAEMON, lambda module: by_name & called(module)).keys() <= {"daemon.dotted"}


def test_nothing_needs_the_test_kit() -> None:
    modules = [module for module in MODULES if not inside(module, "daemon.testing")]
    assert faults(modules, lambda module: {name for name in imports(module) if inside(name, "daemon.testing")}) == {}


def test_families_stand_alone() -> None:
    def others(module: str) -> set[str]:
        own = {package for package in FAMILY_PACKAGES if inside(module, package)}
        return {name for name in imports(module) for package in FAMILY_PACKAGES - own if inside(name, package)}

    assert faults(HANDLERS, others) == {}, "what two families need belongs in handlers.integrations"


def test_only_the_command_reads_the_environment() -> None:
    def reads(module: str) -> set[str]:
        # The embedded server reads nothing of it, but hands it on to the process that it starts.
        if module in {"daemon.settings", "daemon.embedded"} or inside(module, "daemon.cli"):
            return set()
        return {
            f"line {node.lineno}"
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
        }

    assert faults(MODULES, reads) == {}, "settings are passed down"


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


def faults(modules: Iterable[str], look: Callable[[str], set[str]]) -> dict[str, set[str]]:
    """Give the modules in which something was found, with what it is."""
    return {module: found for module in modules if (found := look(module))}


def called(module: str) -> set[str]:
    """Give the names of what a module calls."""
    calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    return {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
