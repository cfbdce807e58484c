"""What an export promises beside its file: refusals, going on, nothing left over, link and mail."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.errors import ConfigurationError
from handlers.exports import tasks
from handlers.exports.datasets import Filters, dataset
from handlers.exports.formats.text import TEXT_WRITERS, CsvWriter
from handlers.exports.formats.xlsx import MAX_TEXT, TooLongForXlsx, XlsxWriter
from handlers.exports.payloads import ExportData
from handlers.exports.spool import Spool
from tests.handlers.exports.datasets import ORDERS, orders
from tests.handlers.exports.support import Opened, both, order


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"dataset": "order"}, "there is no dataset 'order': did you mean 'orders'"),
        ({"dataset": "secrets"}, "there is no dataset 'secrets': there are .*customers.*ARQD_EXPORTS__DATASETS"),
        ({"columns": ("id", "statos")}, "orders has no column 'statos': did you mean 'status'"),
        ({"filters": {"status": "lost"}}, "filters of orders: status: Input should be 'open' or 'paid'"),
        ({"filters": {"color": "red"}}, "filters of orders: color: Extra inputs.*; there are placed_before, status"),
    ],
)
async def test_what_is_unknown_is_refused_for_good(opened: Opened, fields: dict[str, Any], told: str) -> None:
    run = await opened.run(ExportData(**{"dataset": "orders", **fields}))
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(Exception, match=told):
        run.value()
    assert opened.left_over == []


@pytest.mark.parametrize(
    "fields",
    [{"export_type": "pdf"}, {"columns": ("id", "id")}, {"dataset": "../x"}, {"mail_to": "nobody"}, {"wanted": 1}],
)
def test_a_producer_refuses_what_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExportData(**{"dataset": "orders", **fields})


def test_the_seeds_names_are_understood() -> None:
    given = {"dataset": "orders", "exportType": "xlsx", "filters": {"status": "paid"}, "mailTo": "ada@example.com"}
    job = ExportData.model_validate(given)
    assert (job.export_type, job.mail_to) == ("xlsx", ("ada@example.com",))


def test_a_name_is_registered_once() -> None:
    assert dataset("orders")(orders) is orders
    with pytest.raises(ConfigurationError, match="two datasets are called 'orders'"):
        dataset("orders")(lambda filters: orders(filters))


async def test_each_job_has_a_file_of_its_own_whatever_it_is_called(opened: Opened) -> None:
    """Ids that look alike once they are a file's name must not give one job's rows to who asked for the other's."""
    ids = ("acme:may", "acme-may", "nightly/../é", "." + "x" * 200)
    runs = [await opened.run(ExportData(dataset="orders"), job_id=job_id) for job_id in ids]
    assert len({run.value().key for run in runs}) == len(ids)


async def test_filters_and_progress(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BATCH", 50)
    run = await opened.run(ExportData(dataset="orders", filters={"status": "paid"}))
    assert run.value().rows == 125
    assert [note for _, note in run.progress] == [
        *("50 of 125 rows", "100 of 125 rows", "125 of 125 rows", "125 rows"),
    ]
    assert [percent for percent, _ in run.progress] == [38, 76, 95, 100]
    assert opened.left_over == []


async def test_a_dataset_without_key(opened: Opened) -> None:
    path = await opened.file(ExportData(dataset="customers"))
    assert len(list(csv.reader(path.open(encoding="utf-8", newline="")))) == 11


class Breaking:
    """Lets a writer fail after some batches, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException | None = None) -> None:
        self.batches: list[int] = []
        self.left: int | None = after
        write = CsvWriter.write

        def breaking(writer: CsvWriter, rows: Sequence[Any]) -> None:
            if self.left is not None and len(self.batches) >= self.left:
                self.left = None
                raise error or ConnectionError("the database went away")
            self.batches.append(rows[0][0])
            write(writer, rows)

        monkeypatch.setattr(CsvWriter, "write", breaking)
        monkeypatch.setattr(tasks, "BATCH", 10)
        monkeypatch.setattr(tasks, "PORTION", 50)


@both
@pytest.mark.parametrize("columns", [None, ("status",)])
async def test_a_later_try_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...] | None
) -> None:
    whole = (await opened.file(ExportData(dataset="orders", columns=columns))).read_bytes()
    broken = Breaking(monkeypatch, after=13)
    job = ExportData(dataset="orders", columns=columns)
    first = await opened.run(job, job_id="e-1")
    assert first.ending == "retried"
    assert len(opened.left_over) == 1
    assert [receipt["rows"] for receipt in first.receipts.values()] == [50, 100]
    before = len(broken.batches)
    second = await opened.run(job, job_id="e-1", tries=1, receipts=first.receipts)
    assert second.value().rows == 250
    # What had come behind the last portion is written again, once.
    assert len(broken.batches) - before == 15
    assert opened.path(second.value()).read_bytes() == whole
    assert opened.left_over == []


@pytest.mark.parametrize("kind", ["ndjson", "json"])
async def test_the_other_texts_go_on_too(opened: Opened, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    job = ExportData(dataset="orders", export_type=kind)
    whole = (await opened.file(job)).read_bytes()
    monkeypatch.setattr(tasks, "BATCH", 10)
    monkeypatch.setattr(tasks, "PORTION", 50)
    put = opened.ctx["exports"].store.put

    async def fails(*args: Any, **options: Any) -> Any:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(opened.ctx["exports"].store, "put", fails)
    first = await opened.run(job, job_id="e-2")
    assert first.ending == "retried"
    monkeypatch.setattr(opened.ctx["exports"].store, "put", put)
    second = await opened.run(job, job_id="e-2", tries=1, receipts=first.receipts)
    # Everything was written, and nothing is read again.
    assert [note for _, note in second.progress] == ["250 rows"]
    assert opened.path(second.value()).read_bytes() == whole


async def test_without_the_file_it_begins_anew(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (await opened.file(ExportData(dataset="orders"))).read_bytes()
    Breaking(monkeypatch, after=13)
    job = ExportData(dataset="orders")
    first = await opened.run(job, job_id="e-3")
    for folder in opened.left_over:
        (folder / "export.csv").unlink()
    second = await opened.run(job, job_id="e-3", tries=1, receipts=first.receipts)
    assert opened.path(second.value()).read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "error", "kind"),
    [
        ({"tries": 2}, ConnectionError("away"), "csv"),
        ({}, tasks.PermanentError("never"), "csv"),
        ({}, ConnectionError("away"), "parquet"),
        ({}, ConnectionError("away"), "xlsx"),
    ],
)
async def test_nothing_is_left_over(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: Exception, kind: Any
) -> None:
    async def fails(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(opened.ctx["exports"].store, "put", fails)
    run = await opened.run(ExportData(dataset="orders", export_type=kind), **options)
    assert run.ending != "completed"
    assert opened.left_over == []


@pytest.mark.parametrize(("kind", "kept"), [("csv", 1), ("parquet", 0)])
async def test_a_time_limit(opened: Opened, monkeypatch: pytest.MonkeyPatch, kind: Any, kept: int) -> None:
    async def slow(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(opened.ctx["exports"].store, "put", slow)
    run = await opened.run(ExportData(dataset="orders", export_type=kind), timeout=3)
    assert run.ending == "retried"
    assert len(opened.left_over) == kept


async def test_folders_of_jobs_that_do_not_come_back_are_swept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    at_work = spool.open("at-work")
    for job_id in ("comes-back", "does-not"):
        folder = spool.open(job_id)
        (folder.path / "export.csv").write_text("a")
        folder.leave()
    asked: list[str] = []

    async def returns(job_id: str) -> bool:
        asked.append(job_id)
        return job_id == "comes-back"

    await spool.sweep(returns)
    assert sorted(asked) == ["comes-back", "does-not"]
    again, other = spool.open("comes-back"), spool.open("does-not")
    assert (again.path / "export.csv").read_text() == "a"
    assert not (other.path / "export.csv").exists()
    # Two at once never share a folder.
    assert spool.open("at-work").path != at_work.path


async def test_a_mail_with_the_link(opened: Opened) -> None:
    job = ExportData(dataset="orders", mail_to=("ada@example.com", "Grace <grace@example.com>"), lang="fr")
    run = await opened.run(job, job_id="e-4")
    result = run.value()
    assert result.mailed
    assert [(each.family, each.function) for each in run.enqueued] == [("email", "send_email")] * 2
    fields = run.enqueued[0].payload
    assert (fields["to"], fields["template"], fields["lang"]) == ("ada@example.com", "report_ready", "fr")
    assert fields["context"]["report_url"] == result.url
    assert (fields["subject"], result.expires_at) == ("orders est prêt", None)
    again = await opened.run(job, job_id="e-4")
    assert [each.id for each in again.enqueued] == [each.id for each in run.enqueued]


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    """PostgreSQL has them; the whole file would be unreadable to most for a single one."""
    rows = [[float("nan"), {"most": [float("inf")]}]]
    for kind, writer in TEXT_WRITERS.items():
        written = writer(tmp_path / kind, ["number", "more"], 0)
        written.write(rows)
        written.close()
    found = {kind: (tmp_path / kind).read_bytes().decode() for kind in TEXT_WRITERS}
    assert found["ndjson"] == '{"number":null,"more":{"most":[null]}}\n'
    assert found["json"] == '[\n{"number":null,"more":{"most":[null]}}\n]\n'
    assert found["csv"] == 'number,more\r\nnan,"{""most"":[null]}"\r\n'


async def test_what_xlsx_cannot_hold(opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("handlers.exports.formats.xlsx.MAX_ROWS", 4)
    writer = XlsxWriter(tmp_path / "a.xlsx", ["number"])
    writer.write([[2**60], [float("nan")], [1], [2], [3]])
    with pytest.raises(TooLongForXlsx, match=r"number of row 6 has 32,768 characters.* export it as csv"):
        writer.write([["x" * (MAX_TEXT + 1)]])
    writer.close()
    import python_calamine

    book = python_calamine.load_workbook(tmp_path / "a.xlsx")
    sheets = [book.get_sheet_by_name(name).to_python() for name in book.sheet_names]
    assert sheets == [[["number"], [str(2**60)], ["nan"], [1]], [["number"], [2], [3]]]


async def test_a_value_of_another_type_is_told(opened: Opened) -> None:
    async with opened.database.begin() as connection:
        await _spoil(connection)
    run = await opened.run(ExportData(dataset="orders", export_type="parquet", columns=("id", "gift", "weight")))
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(Exception, match="the column weight holds something else than double"):
        run.value()


async def _spoil(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql("UPDATE orders SET weight = 'heavy' WHERE id = 7")


def test_the_table_is_the_source() -> None:
    assert list(order(1)) == [column.name for column in ORDERS.columns]
    assert Filters.model_fields == {}


def test_a_folder_that_a_sweep_takes_before_it_is_anybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, taken = Path.mkdir, list[Path]()

    def swept(path: Path, *given: Any, **options: Any) -> None:
        make(path, *given, **options)
        if not taken:
            taken.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", swept)
    folder = Spool(tmp_path).open("{exports}:1")
    assert folder.path.is_dir()
    assert [folder.path != path for path in taken] == [True]
    folder.remove()
