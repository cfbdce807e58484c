"""Where the links of a mail lead: to the web or to a mail address, and nowhere that a payload made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

from daemon.errors import PermanentError
from handlers.integrations.texts import LINKS, scheme_of, without_blanks

#: Attributes that hold a URL.
_URLS = frozenset(
    ("href", "xlink:href", "src", "srcset", "action", "formaction", "background", "poster", "data", "cite", "ping")
)
#: What runs as a script; no template needs one.
_SCRIPTS = frozenset(("javascript", "vbscript"))
#: What shows that a link was made of a variable: so many equal characters at its beginning, or all of the shorter one.
_TOLD_BY = 20


def check_links(file: str, html: str, context: Mapping[str, Any]) -> None:
    """Look at each link of a rendered template.

    Whatever made it, a filter or an ``include``, is seen. What a template itself says (``tel:``, ``cid:``, ``data:`` of
    a picture) is its author's own.

    Raises:
        PermanentError: naming the variable that leads elsewhere, or the template.
    """
    for link in _links(html):
        scheme = scheme_of(link)
        if scheme is None or scheme in LINKS:
            continue
        if (name := _origin(without_blanks(link).lower(), scheme, context)) is not None:
            raise PermanentError(f"context.{name}: a link begins with http://, https:// or mailto:")
        if scheme in _SCRIPTS:
            raise PermanentError(f"template {file}: a link begins with {scheme}:")


def _links(html: str) -> list[str]:
    parser = _Links()
    parser.feed(html)
    parser.close()
    return parser.found


def _origin(link: str, scheme: str, context: Mapping[str, Any]) -> str | None:
    """Give the variable that a link was made of; None: the template's author wrote it."""
    for name, text in _texts(context):
        told = without_blanks(text).lower()
        size = min(len(told), len(link), len(scheme) + 1 + _TOLD_BY)
        if told.startswith(f"{scheme}:") and told[:size] == link[:size]:
            return name
    return None


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Give the texts in a variable with their names: ``items.0.url``."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(each, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _texts(each, f"{name}.{number}")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in _URLS and value]

    def handle_comment(self, data: str) -> None:
        # Outlook reads what stands in a conditional one.
        self.found += _links(data)
