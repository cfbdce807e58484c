"""From the settings to the store they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from daemon.errors import ConfigurationError
from handlers.integrations.object_store.store import ObjectStore

NAME = "ARQD_OBJECT_STORE_URL"


def open_store(settings: Any) -> ObjectStore:
    """Give the object store; nothing is connected to yet.

    Args:
        settings: with ``object_store_url``, ``var_dir``, the sections ``object_store`` and, for S3, ``http``.

    Raises:
        ConfigurationError: the URL is none, or the keys of a bucket are missing.
    """
    url = settings.object_store_url
    options = settings.object_store
    if url is None:
        from handlers.integrations.object_store.local import LocalStore

        return LocalStore(settings.var_dir / "objects", options)
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc and not query:
        from handlers.integrations.object_store.local import LocalStore

        return LocalStore(Path(unquote(parts.path)), options)
    if parts.scheme != "s3" or not parts.hostname or "@" in parts.netloc or query.keys() - {"endpoint", "region"}:
        raise ConfigurationError(f"{NAME} is s3://bucket/prefix?endpoint=https://…&region=… or file:///folder")
    if options.access_key is None:
        raise ConfigurationError("ARQD_OBJECT_STORE__ACCESS_KEY and __SECRET_KEY are not set: a bucket needs them")
    from handlers.integrations.object_store.s3 import S3Store

    region = query.get("region", "us-east-1")
    return S3Store(parts.netloc, unquote(parts.path).strip("/"), query.get("endpoint"), region, options, settings.http)
