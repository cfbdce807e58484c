"""The address of a service's API, as operators write it. Pydantic only: settings are built from it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _base_url(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("write a URL, https://api.example.com")
    return url.rstrip("/")


#: A URL without the slash at its end.
BaseUrl = Annotated[str, AfterValidator(_base_url)]
