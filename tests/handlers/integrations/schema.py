"""The tables of every family, as they are declared."""

from __future__ import annotations

import importlib

from sqlalchemy import MetaData

from daemon.archive.table import metadata as archive
from daemon.outbox.table import metadata as outbox
from handlers.integrations.database import metadata
from tests.architecture.sources import MODULES


def declared() -> list[MetaData]:
    """Import every ``tables`` module and give what they declare."""
    for module in MODULES:
        if module.endswith(".tables"):
            importlib.import_module(module)
    return [metadata, outbox, archive]
