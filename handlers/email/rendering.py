"""Templates: finding the right one, and turning it into an HTML and a text part.

A template is up to two files per language: ``welcome.html`` and ``welcome.txt`` (the base, English),
``welcome.fr.html`` and ``welcome.fr.txt``. The operator's folders are searched first; the first folder that
has a template, in the language asked for or else as a base, provides all of its parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import css_inline
from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, StrictUndefined, TemplateError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic.alias_generators import to_snake

from daemon.errors import ConfigurationError, PermanentError
from handlers.email.links import check_links
from handlers.integrations.texts import LINKS, scheme_of

SHIPPED = Path(__file__).with_name("templates")
# A template that multiplies its way past these means to use up the memory.
MAX_REPEATED = 100_000
MAX_BITS = 4096


@dataclass(frozen=True, slots=True)
class Rendered:
    """The parts of a message; one of them may be None."""

    html: str | None
    text: str | None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox lets ``'a' * 10**9`` run; this one does not."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise SecurityError(f"the result of {operator} is too large")
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(sequence, "__len__") and len(sequence) * times > MAX_REPEATED:
                    raise SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _is_link(value: Any) -> bool:
    """Tell whether a value may be a link: ``{% if report_url is link %}``."""
    return isinstance(value, str) and scheme_of(value) in LINKS


class Templates:
    """The shipped templates and those of the operator's folders, which come first.

    Args:
        folders: the operator's.

    Raises:
        ConfigurationError: a folder is missing.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise ConfigurationError(f"ARQD_EMAIL__TEMPLATE_DIRS: {folder} is not a folder")
        self._folders = [*folders, SHIPPED]
        loaders = [FileSystemLoader(folder) for folder in self._folders]
        # "0/welcome.html" is the one of the first folder; "layout.html" (include, extends) comes from any of them.
        by_folder = PrefixLoader({str(index): loader for index, loader in enumerate(loaders)})
        self._environment = _Sandbox(
            loader=ChoiceLoader([by_folder, *loaders]),
            autoescape=lambda name: name is None or not name.endswith(".txt"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.tests["link"] = _is_link
        self._inliner = css_inline.CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)

    def render(self, name: str, lang: str, context: Mapping[str, Any]) -> Rendered:
        """Render both parts of a template.

        Args:
            name: without folder and suffix.
            lang: a language tag; ``fr-CA`` looks for ``fr-ca``, then ``fr``, then the base.
            context: its variables; each camelCase name can also be used in snake_case.

        Raises:
            PermanentError: no such template (listing those there are), a variable it needs is not in the context
                (naming it), it makes a link that leads elsewhere than to the web or a mail address, or it fails.
        """
        index, stem = self._find(name, lang)
        variables = {to_snake(key): value for key, value in context.items()} | dict(context)
        # The language of the text, which may not be the one asked for.
        variables["lang"] = stem.partition(".")[2] or "en"
        html = self._part(index, f"{stem}.html", variables)
        text = self._part(index, f"{stem}.txt", variables)
        if html is not None:
            try:
                html = self._inliner.inline(html)
            except css_inline.InlineError:
                # A style with a value that is none; the text of the error quotes it.
                raise PermanentError(f"template {stem}.html fails with these variables: its styles are none") from None
            check_links(f"{stem}.html", html, context)
        if text is not None:
            # Lines left out by a condition leave a gap.
            text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
        return Rendered(html, text)

    def names(self) -> list[str]:
        """The names of all templates."""
        found = {path.name.partition(".")[0] for folder in self._folders for path in folder.glob("*.*")}
        return sorted(name for name in found if name and not name.startswith("_"))

    def _find(self, name: str, lang: str) -> tuple[int, str]:
        tag = lang.lower().replace("_", "-")
        stems = dict.fromkeys((f"{name}.{tag}", f"{name}.{tag.partition('-')[0]}", name))
        for index, folder in enumerate(self._folders):
            for stem in stems:
                if not name.startswith("_") and any((folder / f"{stem}.{kind}").is_file() for kind in ("html", "txt")):
                    return index, stem
        raise PermanentError(f"there is no template {name!r}; there are {', '.join(self.names())}")

    def _part(self, index: int, file: str, variables: Mapping[str, Any]) -> str | None:
        if not (self._folders[index] / file).is_file():
            return None
        try:
            return self._environment.get_template(f"{index}/{file}").render(variables)
        except UndefinedError as error:
            raise PermanentError(f"template {file}: {error.message}: give it in context") from None
        except TemplateError as error:
            raise PermanentError(f"template {file}: {type(error).__name__}: {error.message}") from None
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            # A filter given the wrong kind of value; the text of such an error may quote the context.
            raise PermanentError(f"template {file} fails with these variables: {type(error).__name__}") from None
