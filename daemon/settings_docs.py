"""What documentation and examples say of the settings: tables in Markdown, and a file of every variable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from daemon.dotted import shipped_families
from daemon.environment import FALLBACKS, PREFIX
from daemon.family import FamilyEntry
from daemon.retry import Backoff
from daemon.settings import settings_model, walk


def _variables() -> Iterator[tuple[str, FieldInfo]]:
    """Give every variable there is, those of a family once, and what it sets."""
    values = walk(FamilyEntry, f"{PREFIX}FAMILY__<FAMILY>__")
    for name, field in (*walk(settings_model(shipped_families())), *values):
        section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if name != f"{PREFIX}FAMILY" and not section:
            yield name, field


def settings_table() -> str:
    """Give every variable, its default and its meaning as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in _variables():
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {_default(field)} | {meaning} |")
    return "\n".join(rows)


def environment_example() -> str:
    """Give a file of every variable, commented out, as `ARQD_ENV_FILE` takes it; secrets belong elsewhere."""
    lines = ["# Settings of arqd: NAME=value, one a line. What is commented out shows the default.", ""]
    for name, field in _variables():
        default = _default(field).strip("`").replace("–", "")
        secret = "; a secret, not for this file" if "SecretStr" in str(field.annotation) else ""
        lines += [f"# {(field.description or '').replace('`', '')}{secret}", f"#{name}={default}", ""]
    return "\n".join(lines)


def fallback_table() -> str:
    """Give the names of other systems that stand in for settings, as a Markdown table."""
    rows = ["| variable | stands for | meaning |", "|---|---|---|"]
    for row in FALLBACKS:
        names, targets = (", ".join(f"`{name}`" for name in group) for group in (row.names, row.sets))
        rows.append(f"| {names} | {targets} | {row.meaning} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value = PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ({}, [], (), ""):
        return "–"
    if isinstance(value, Backoff):
        return f"`{'exponential' if value.exponential else 'fixed'} {value.base:g}s max {value.maximum:g}s`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f"`{value:g}`"
        if isinstance(value, float) and value < 1e6
        else f"`{value:.0f}`"
        if isinstance(value, float)
        else f"`{value}`"
    )


TABLES = {"settings": settings_table, "fallbacks": fallback_table}


def with_tables(text: str) -> str:
    """Replace what stands between ``<!-- settings:begin -->`` and ``<!-- settings:end -->`` (and ``fallbacks``)."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, found, rest = text.partition(begin)
        if found and end in rest:
            text = f"{before}{begin}{table()}\n{end}{rest.partition(end)[2]}"
    return text


def write() -> None:
    """Renew the tables in README.md and docs/settings.md, and the example, of the current folder."""
    for path in (Path("README.md"), Path("docs/settings.md")):
        if path.exists():
            path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
    if (path := Path("deploy/systemd/arqd.env.example")).parent.exists():
        path.write_text(environment_example(), "utf-8")
