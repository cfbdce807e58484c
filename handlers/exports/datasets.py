"""What can be exported: queries that an operator's modules register by name.

    # shop/datasets.py, named by ARQD_EXPORTS__DATASETS
    from handlers.exports.datasets import Filters, dataset

    class OrderFilters(Filters):
        since: date | None = None

    @dataset("orders", filters=OrderFilters, key="id")
    def orders(filters: OrderFilters) -> Select:
        query = select(ORDERS.c.id, ORDERS.c.placed_at, ORDERS.c.total)
        return query if filters.since is None else query.where(ORDERS.c.placed_at >= filters.since)

The columns of the query are those of the dataset, under the names it gives them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Select, SelectBase, func, select
from sqlalchemy.sql.elements import ColumnElement

from daemon.errors import ConfigurationError, PermanentError
from daemon.payload import PayloadModel

#: What a key may be: it is compared by the database, and kept as JSON between two tries.
_KEYS = (int, str, UUID, datetime, date)


class ExportRefused(PermanentError):
    """There is no such dataset, column or filter."""


class Filters(PayloadModel):
    """Base of a dataset's filters: unknown ones are refused, names are accepted in camelCase, too."""


Build = Callable[[Any], SelectBase]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A query by name.

    Attributes:
        build: gives the query for some filters.
        key: a column that is unique, never null and orders the rows; an export goes on behind the last one it has
            written. None: a later try begins anew.
    """

    name: str
    build: Build
    filters: type[Filters]
    key: str | None


_datasets: dict[str, Dataset] = {}


def dataset(name: str, *, filters: type[Filters] = Filters, key: str | None = None) -> Callable[[Build], Build]:
    """Register a function that gives a query for some filters; see `Dataset`.

    Raises:
        ConfigurationError: there is another dataset of this name.
    """

    def register(build: Build) -> Build:
        known = _datasets.setdefault(name, Dataset(name, build, filters, key))
        if known.build is not build:
            raise ConfigurationError(f"two datasets are called {name!r}")
        return build

    return register


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows and columns of one export.

    Attributes:
        columns: what is written, in order.
        names: their names.
        key: the column that orders the rows, None where there is none.
        kind: the Python type of its values.
    """

    columns: tuple[ColumnElement[Any], ...]
    key: ColumnElement[Any] | None
    kind: type | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(str(column.key) for column in self.columns)

    @property
    def hides_key(self) -> bool:
        """Whether rows end with a key that is not to be written."""
        return self.key is not None and all(column is not self.key for column in self.columns)

    @property
    def counting(self) -> Select[Any]:
        """The query that counts the rows."""
        return select(func.count()).select_from(self.columns[0].table)

    def rows(self, after: Any = None) -> Select[Any]:
        """Give the query of the rows, of those behind a key if one is given."""
        query = select(*self.columns)
        if self.key is None:
            return query
        if self.hides_key:
            query = query.add_columns(self.key)
        query = query.order_by(self.key)
        if after is None:
            return query
        known: Any = TypeAdapter(self.kind).validate_python(after)  # type: ignore[arg-type]
        return query.where(self.key > known)


def selection(name: str, filters: dict[str, Any], columns: Iterable[str] | None) -> Selection:
    """Give what a job asks for.

    Raises:
        ExportRefused: there is no such dataset, filter or column, or the filter's value is wrong.
    """
    found = _datasets.get(name)
    if found is None:
        raise ExportRefused(f"there is no dataset {name!r}: {_known(name, _datasets)} (ARQD_EXPORTS__DATASETS)")
    try:
        given = found.filters.model_validate(filters)
    except ValidationError as error:
        told = "; ".join(_told(each) for each in error.errors(include_url=False, include_input=False))
        raise ExportRefused(f"filters of {name}: {told}; {_known('', found.filters.model_fields)}") from None
    # A subquery, whatever the query is: its columns can then be chosen and its rows ordered from outside. Databases
    # flatten a simple one.
    offered: dict[str, ColumnElement[Any]] = {
        str(column.key): column for column in found.build(given).subquery("dataset").columns
    }
    chosen = list(columns or offered)
    for column in chosen:
        if column not in offered:
            raise ExportRefused(f"{name} has no column {column!r}: {_known(column, offered)}")
    return Selection(tuple(offered[column] for column in chosen), *_key_of(found, offered))


def _key_of(found: Dataset, offered: dict[str, ColumnElement[Any]]) -> tuple[ColumnElement[Any] | None, type | None]:
    if found.key is None:
        return None, None
    key = offered.get(found.key)
    kind = None if key is None else key.type.python_type
    if key is None or kind not in _KEYS:
        raise ExportRefused(
            f"the key {found.key!r} of {found.name} must be a column of integers, texts, UUIDs or times"
        )
    return key, kind


def _told(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {error['msg']}" if where else str(error["msg"])


def _known(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(names[:30])}{', …' if len(names) > 30 else ''}" if names else "there are none"
