"""Parquet: columns with types, those of the query; a group of rows is written when it is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from sqlalchemy import types

from daemon.errors import PermanentError
from handlers.exports.formats.cells import text_of
from handlers.integrations.database import Exact, Utc

#: Rows of a group: what is held in memory.
GROUP = 50_000
#: How many digits Arrow's decimals have.
DIGITS = 38


class WrongType(PermanentError):
    """A value is not of its column's type."""


class ParquetWriter:
    """See `Writer`."""

    def __init__(self, path: Path, names: Sequence[str], kinds: Sequence[types.TypeEngine[Any]]) -> None:
        arrow = [arrow_type(kind) for kind in kinds]
        self._schema = pa.schema(list(zip(names, arrow, strict=True)))
        self._convert = [_conversion(kind) for kind in arrow]
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        columns = []
        for field, convert, values in zip(self._schema, self._convert, zip(*rows, strict=True), strict=True):
            given = values if convert is None else [None if value is None else convert(value) for value in values]
            try:
                columns.append(pa.array(given, field.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
                raise WrongType(
                    f"the column {field.name} holds something else than {field.type} ({str(error)[:200]}): give it its "
                    "type in the query, with type_coerce(...) or cast(...)"
                ) from None
        self._held.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._rows += len(rows)
        if self._rows >= GROUP:
            self._write_group()

    def flush(self) -> int:
        raise NotImplementedError("a Parquet file is readable when it is complete")

    def close(self) -> None:
        self._write_group()
        self._writer.close()

    def discard(self) -> None:
        self._held.clear()
        if self._writer.is_open:
            self._writer.close()

    def _write_group(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held), row_group_size=self._rows)
            self._held, self._rows = [], 0


def arrow_type(kind: types.TypeEngine[Any]) -> pa.DataType:
    """Give Arrow's type for a column's; what it has none for, and what has no type, becomes text."""
    if isinstance(kind, Exact):
        return pa.decimal128(DIGITS, 18)
    if isinstance(kind, Utc):
        return pa.timestamp("us", "UTC")
    if isinstance(kind, types.TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, types.Float):
        return pa.float64()
    if isinstance(kind, types.Numeric):
        fits = kind.asdecimal and kind.precision is not None and kind.precision <= DIGITS
        return pa.decimal128(kind.precision, kind.scale or 0) if fits else pa.string()
    if isinstance(kind, types.DateTime):
        return pa.timestamp("us", "UTC" if kind.timezone else None)
    for ours, arrow in _SIMPLE:
        if isinstance(kind, ours):
            return arrow
    return pa.string()


_SIMPLE: tuple[tuple[type[Any], pa.DataType], ...] = (
    (types.Boolean, pa.bool_()),
    (types.Integer, pa.int64()),
    (types.Date, pa.date32()),
    (types.Time, pa.time64("us")),
    (types.LargeBinary, pa.binary()),
)


def _conversion(kind: pa.DataType) -> Callable[[Any], Any] | None:
    if pa.types.is_string(kind):
        return text_of
    if pa.types.is_timestamp(kind) and kind.tz:
        return _aware
    return None


def _aware(value: Any) -> Any:
    """SQLite gives times without their zone: they are UTC."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
