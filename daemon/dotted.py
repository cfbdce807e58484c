"""From dotted strings to what they name: the only place that imports by name, and knows the tables of what ships."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from daemon.errors import ConfigurationError

FAMILIES, DATABASE, COMMANDS = "handlers:FAMILIES", "handlers:DATABASE", "handlers:COMMANDS"
OBJECT_STORE = "handlers:OBJECT_STORE"


def resolve(dotted: str) -> Any:
    """Import what ``module:name`` names; the current directory is searched too.

    Raises:
        ConfigurationError: when the module or the name is not there, or its import fails.
    """
    module, colon, name = dotted.partition(":")
    if not colon or not module or not name:
        raise ConfigurationError(f"{dotted!r} is not module:name")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigurationError(f"{dotted!r} cannot be imported: {error}") from error
    except AttributeError:
        raise ConfigurationError(f"module {module!r} has no {name!r}") from None


def shipped_families() -> dict[str, str]:
    """Give the table of the families that ship with arqd."""
    table: dict[str, str] = resolve(FAMILIES)
    return dict(table)


def shipped_commands() -> dict[str, Any]:
    """Give the groups of commands that the shipped families bring: name to Typer application."""
    table: dict[str, str] = resolve(COMMANDS)
    return {name: resolve(dotted) for name, dotted in table.items()}


def database_of(settings: Any) -> Any:
    """Give the database the daemon's settings name, not yet connected: ``engine``, ``upgrade()``, ``close()`` …

    Raises:
        ConfigurationError: for a wrong URL, or where the packages of ``arqd[database]`` are missing.
    """
    try:
        return resolve(resolve(DATABASE)).of(settings)
    except ConfigurationError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ConfigurationError(f"{error.__cause__.name} is missing: install arqd[database]") from None
        raise


def object_store_of(settings: Any) -> Any:
    """Give the object store the daemon's settings name, not yet connected: ``put()``, ``close()`` …

    Raises:
        ConfigurationError: for a wrong URL.
    """
    return resolve(resolve(OBJECT_STORE))(settings)
