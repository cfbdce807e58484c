"""What arqd keeps in files is old sooner or later, and still no litter: a folder that holds it is none to clean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import make_url

from daemon.errors import ConfigurationError


def check_apart(settings: Any) -> None:
    """See that no folder of old files is or holds one in which arqd keeps something; one inside of it may be cleaned.

    Raises:
        ConfigurationError: one does.
    """
    own = settings.maintenance
    for variable, roots in (("TEMP_ROOTS", own.temp_roots), ("LOG_ROOTS", own.log_roots)):
        for root in roots:
            for what, place in _kept(settings):
                if place.resolve().is_relative_to(root.resolve()):
                    raise ConfigurationError(
                        f"ARQD_MAINTENANCE__{variable}: {root} holds {what}, {place}: name a folder without it"
                    )


def _kept(settings: Any) -> Iterator[tuple[str, Path]]:
    yield "what arqd keeps (ARQD_VAR_DIR)", settings.var_dir
    yield "exports being written (ARQD_EXPORTS__SPOOL_DIR)", settings.exports.spool_dir
    store = urlsplit(settings.object_store_url or "")
    if store.scheme == "file":
        yield "the object store (ARQD_OBJECT_STORE_URL)", Path(unquote(store.path))
    databases = {"DATABASE_URL": settings.database_url, "EXPORTS__DATABASE_URL": settings.exports.database_url}
    for name, url in databases.items():
        place = None if url is None else make_url(url.get_secret_value())
        if place is not None and place.get_backend_name() == "sqlite" and place.database:
            yield f"the database (ARQD_{name})", Path(place.database)
