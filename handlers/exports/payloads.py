"""What the exports family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from daemon.payload import Payload, PayloadModel
from handlers.integrations.recipients import Language, Recipients

__all__ = ["ExportData", "ExportType", "Exported"]

ExportType = Literal["csv", "ndjson", "json", "xlsx", "parquet"]


def _each_once(columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(columns)) < len(columns):
        raise ValueError("a column is named twice")
    return columns


Columns = Annotated[tuple[str, ...], AfterValidator(_each_once), Field(min_length=1, max_length=16_000)]


class Exported(PayloadModel):
    """A file that was written.

    Attributes:
        url: a link to it, good until ``expires_at`` (None: it does not end).
        key: its name in the object store.
        rows: how many it holds, the line of names not counted.
        size: bytes.
        mailed: whether a mail with the link was handed to the email family.
    """

    url: str
    key: str
    dataset: str
    export_type: ExportType
    columns: tuple[str, ...]
    rows: int
    size: int
    expires_at: datetime | None = None
    mailed: bool = False


class ExportData(Payload, family="exports", function="export_data", priority=7, returns=Exported):
    """Write the rows of a dataset into a file.

    Attributes:
        dataset: its name, as ``@dataset(...)`` registers it at the worker.
        export_type: the file's format.
        filters: which rows, checked by the dataset's own model at the worker.
        columns: which columns, in this order; default all.
        mail_to: who gets a mail with the link.
        lang: of that mail, ``en`` or ``fr``.
    """

    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    export_type: ExportType = "csv"
    filters: dict[str, Any] = Field(default_factory=dict)
    columns: Columns | None = None
    mail_to: Recipients = ()
    lang: Language = "en"
