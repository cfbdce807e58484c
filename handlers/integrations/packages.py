"""Packages of extras that a family imports only when it works."""

from __future__ import annotations

from importlib.util import find_spec


def required(*modules: str) -> None:
    """See that they can be imported, without importing them.

    A family's ``worker.py`` calls it when it is imported itself: so a family whose packages are missing is left out, as
    it is where an import of its own fails, and does not end a daemon that runs others.

    Raises:
        ModuleNotFoundError: one is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
