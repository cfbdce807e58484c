"""Modules of the operator's own that register something: handlers of events, datasets, metrics. Imported by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from daemon.errors import ConfigurationError


def _split(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


#: A setting that names some: with commas or blanks between them.
Modules = Annotated[tuple[str, ...], BeforeValidator(_split)]


def load_modules(variable: str, modules: Iterable[str]) -> None:
    """Import modules for what they register; the current directory is searched too.

    Args:
        variable: where their names stand, for the error.

    Raises:
        ConfigurationError: one cannot be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(f"{variable}: {module} cannot be imported: {error}") from error
