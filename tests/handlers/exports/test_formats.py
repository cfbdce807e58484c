"""Each format, read back by another program's means, on both databases."""

from __future__ import annotations

import base64
import csv
import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
import python_calamine

from handlers.exports.payloads import ExportData
from handlers.integrations.formulas import FORMULA, neutral
from tests.handlers.exports.support import Opened, both, order

ORDERS = [order(number) for number in range(1, 251)]


def as_text(value: Any) -> str:
    """What a field of csv should be, told another way than the exporter does."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        text = base64.b64encode(value).decode()
        return "'" + text if text.startswith("+") else text
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@both
async def test_csv_read_back_is_the_source(opened: Opened) -> None:
    path = await opened.file(ExportData(dataset="orders"))
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(ORDERS)
    for row, source in zip(found, ORDERS, strict=True):
        risky = source["customer"][:1] in tuple("=+-@\t")
        assert row.pop("customer") == ("'" if risky else "") + source["customer"]
        # Whatever digits the database shows, the numbers are equal.
        for name in ("total", "tax"):
            assert Decimal(row.pop(name)) == source[name]
        assert float(row.pop("weight")) == source["weight"]
        assert row == {name: as_text(source[name]) for name in row}


@both
async def test_ndjson_and_json_read_back_are_the_source(opened: Opened) -> None:
    lines = (await opened.file(ExportData(dataset="orders", export_type="ndjson"))).read_text("utf-8").splitlines()
    whole = json.loads((await opened.file(ExportData(dataset="orders", export_type="json"))).read_text("utf-8"))
    assert [json.loads(line) for line in lines] == whole
    for row, source in zip(whole, ORDERS, strict=True):
        same = ("id", "customer", "status", "weight", "gift", "more")
        assert {name: row[name] for name in same} == {name: source[name] for name in same}
        assert datetime.fromisoformat(row["placed_at"]) == source["placed_at"]
        assert (Decimal(row["total"]), Decimal(row["tax"])) == (source["total"], source["tax"])
        assert (row["day"], row["reference"]) == (source["day"].isoformat(), str(source["reference"]))
        assert base64.urlsafe_b64decode(row["photo"]) == source["photo"]


@both
async def test_xlsx_opens_in_calamine(opened: Opened) -> None:
    path = await opened.file(ExportData(dataset="orders", export_type="xlsx"))
    book = python_calamine.load_workbook(path)
    (name,) = book.sheet_names
    head, *rows = book.get_sheet_by_name(name).to_python()
    assert head == list(ORDERS[0])
    assert len(rows) == len(ORDERS)
    for values, source in zip(rows, ORDERS, strict=True):
        row = dict(zip(head, values, strict=True))
        assert row["customer"] == neutral(source["customer"])
        assert (row["id"], row["gift"], row["status"]) == (source["id"], source["gift"], source["status"])
        assert (row["total"], row["weight"]) == (float(source["total"]), pytest.approx(source["weight"], rel=1e-14))
        assert abs(row["placed_at"] - source["placed_at"].replace(tzinfo=None)).total_seconds() < 0.001
        assert row["day"] == source["day"]
        assert row["reference"] == str(source["reference"])


@both
async def test_parquet_keeps_types(opened: Opened) -> None:
    path = await opened.file(ExportData(dataset="orders", export_type="parquet"))
    table = pq.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["id"] == "int64"
    assert kinds["placed_at"] == "timestamp[us, tz=UTC]"
    assert kinds["total"] == "decimal128(38, 18)"
    assert (kinds["tax"], kinds["gift"], kinds["day"]) == ("decimal128(12, 2)", "bool", "date32[day]")
    rows = table.to_pylist()
    for row, source in zip(rows, ORDERS, strict=True):
        same = ("id", "customer", "placed_at", "total", "tax", "weight", "gift", "day", "photo")
        assert {name: row[name] for name in same} == {name: source[name] for name in same}
        assert row["reference"] == str(source["reference"])
        assert row["more"] == (as_text(source["more"]) or None)


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json", "xlsx", "parquet"])
async def test_columns_are_chosen_and_ordered(opened: Opened, kind: Any) -> None:
    run = await opened.run(ExportData(dataset="orders", export_type=kind, columns=("status", "customer")))
    result = run.value()
    assert (result.columns, result.rows, result.export_type) == (("status", "customer"), 250, kind)
    path = opened.path(result)
    assert result.size == path.stat().st_size
    names = {
        "csv": lambda: path.read_text("utf-8").splitlines()[0].split(","),
        "ndjson": lambda: list(json.loads(path.read_text("utf-8").splitlines()[0])),
        "json": lambda: list(json.loads(path.read_text("utf-8"))[0]),
        "xlsx": lambda: python_calamine.load_workbook(path).get_sheet_by_index(0).to_python()[0],
        "parquet": lambda: pq.read_schema(path).names,
    }[kind]()
    assert names == ["status", "customer"]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "json", "xlsx", "parquet"])
async def test_no_rows_are_a_file_too(opened: Opened, kind: Any) -> None:
    job = ExportData(dataset="orders", export_type=kind, filters={"placedBefore": "2020-01-01T00:00:00Z"})
    run = await opened.run(job)
    assert run.value().rows == 0
    path = opened.path(run.value())
    found = {
        "csv": lambda: list(csv.DictReader(path.open(encoding="utf-8", newline=""))),
        "ndjson": lambda: path.read_text("utf-8").splitlines(),
        "json": lambda: json.loads(path.read_text("utf-8")),
        "xlsx": lambda: python_calamine.load_workbook(path).get_sheet_by_index(0).to_python()[1:],
        "parquet": lambda: pq.read_table(path).to_pylist(),
    }[kind]()
    assert found == []


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\n=x", "＝1"])
def test_formulas_are_neutral(text: str) -> None:
    assert text[0] in FORMULA
    assert neutral(text) == "'" + text
