"""What the files family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, model_validator

from daemon.payload import Payload, PayloadModel

__all__ = ["FileOperation", "MadeFile", "ProcessFile", "ProcessedFile"]

#: What can be done, in the order it is done.
FileOperation = Literal["virus_scan", "validate", "optimize", "thumbnail", "convert", "compress", "extract_text"]
#: What the seeds call an operation.
_ALSO = {"resize": "thumbnail", "virusScan": "virus_scan", "extractText": "extract_text"}


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("file_url is https://host/path, without user and password")
    return text


def _name(text: str) -> str:
    if not text.isprintable() or "/" in text or "\\" in text or text in (".", ".."):
        raise ValueError("file_name is a name without folders")
    return text


class MadeFile(PayloadModel):
    """A file that was written to the object store.

    Attributes:
        operation: what made it; ``store`` is the file itself.
        key: of the object.
        url: a link to it.
        size: bytes.
    """

    operation: Literal["store", "extract_text", "optimize", "convert", "thumbnail", "compress"]
    key: str
    url: str
    content_type: str
    size: int


class ProcessedFile(PayloadModel):
    """What a file is, and what was made of it.

    Attributes:
        content_type: by its content, whatever was declared.
        sha256: of its bytes, hexadecimal.
        scanned: whether the virus scanner has seen it; False only where the operator has switched it off.
        text: how many characters were extracted, None where that was not asked for.
        preview: the first of them.
    """

    file_id: str
    content_type: str
    size: int
    sha256: str
    scanned: bool
    text: int | None = None
    preview: str | None = None
    files: tuple[MadeFile, ...] = ()


class ProcessFile(Payload, family="files", function="process_file", priority=3, returns=ProcessedFile):
    """Scan an upload, check it, and do with it what is asked.

    Attributes:
        file_id: whose results these are: part of their keys.
        file_url, path, key: where it comes from: the web, a file in a folder the operator allows, or the object store.
        file_name: as its user called it.
        file_type: the content type that was declared; its content must be of that.
        file_size: how many bytes were declared; it must have as many.
        operations: scanning and checking are always done; of ``operation`` a single one is understood.
        convert_to: of ``convert``: a picture's format.
        compress_to: of ``compress``.
        thumbnail_width, thumbnail_height: a thumbnail fits into them.
        quality: of ``optimize`` and ``convert``.
    """

    file_id: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")
    file_url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, max_length=4000, validation_alias=AliasChoices("file_url", "fileUrl", "url")
    )
    path: str | None = Field(
        None, min_length=1, max_length=4096, validation_alias=AliasChoices("path", "file_path", "filePath")
    )
    key: str | None = Field(None, min_length=1, max_length=1024)
    file_name: Annotated[str, AfterValidator(_name)] = Field(min_length=1, max_length=255)
    file_type: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*$", max_length=127
    )
    file_size: int | None = Field(None, ge=0)
    user_id: str | None = Field(None, max_length=200)
    product_id: str | None = Field(None, max_length=200)
    operations: tuple[FileOperation, ...] = ("virus_scan", "validate")
    convert_to: Literal["jpeg", "png", "webp", "avif"] = "webp"
    compress_to: Literal["zip", "gzip", "zstd"] = "gzip"
    thumbnail_width: int = Field(300, ge=1, le=4000)
    thumbnail_height: int = Field(300, ge=1, le=4000)
    quality: int | None = Field(None, ge=1, le=100)

    @model_validator(mode="before")
    @classmethod
    def _as_others_ask(cls, fields: Any) -> Any:
        """Take one operation by the names other systems have for it."""
        if not isinstance(fields, dict):
            return fields
        given = {**fields}
        one = [given.pop(name) for name in ("operation", "processingType", "processing_type") if name in given]
        if one:
            given["operations"] = [*given.get("operations", ()), *one]
        if isinstance(given.get("operations"), list | tuple):
            given["operations"] = [
                _ALSO.get(each, each) if isinstance(each, str) else each for each in given["operations"]
            ]
        return given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(given is not None for given in (self.file_url, self.path, self.key)) != 1:
            raise ValueError("give one source: a file_url, a path or the key of an object")
        return self
