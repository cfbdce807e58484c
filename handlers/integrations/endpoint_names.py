"""What endpoints of webhooks are called: for the family that delivers, and for others that enqueue deliveries."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

#: Before the endpoint's name in the group of its ordered deliveries. Names have no colon, so no other group begins so.
ORDERED = "ordered:"
#: What may be a group as it is: with `ORDERED` before it no longer than a group may be (128 characters).
_PLAIN = re.compile(r"[A-Za-z0-9._#-]{1,120}")


def endpoint_name(endpoint: str) -> str:
    """Give the name an endpoint is known by: its own, or of a URL ``host#digest``, which keeps its path to itself.

    Raises:
        ValueError: for a URL that is none.
    """
    if "://" not in endpoint:
        return endpoint
    host = (urlsplit(endpoint).hostname or "").replace(":", "-")[:180]
    return f"{host}#{_digest(endpoint)}"


def endpoint_group(endpoint: str, *, ordered: bool = False) -> str:
    """Give the group of an endpoint's deliveries: its name, or ``#digest`` where that is long, or is no name at all."""
    try:
        name = endpoint_name(endpoint)
    except ValueError:
        name = ""
    group = name if _PLAIN.fullmatch(name) else f"#{_digest(endpoint)}"
    return ORDERED + group if ordered else group


def _digest(endpoint: str) -> str:
    return hashlib.sha256(endpoint.encode()).hexdigest()[:12]
