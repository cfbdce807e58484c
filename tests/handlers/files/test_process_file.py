"""Uploads through the family's function, with a real clamd."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import random
import socket
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import zstandard
from PIL import Image
from pydantic import ValidationError

from daemon.console.audit import Audit
from daemon.family import load_family
from daemon.producer import Producer
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.files.archives import BadArchive, Scales, weigh
from handlers.files.payloads import MadeFile, ProcessFile
from handlers.files.tasks import process_file
from handlers.files.text import normalised
from handlers.files.types import type_of
from handlers.files.worker import WorkerSettings, open_files
from handlers.integrations.clamd import Clamd, ScannerRefused, ScannerUnavailable
from tests.engine import run_burst
from tests.handlers.files.conftest import settings_in
from tests.handlers.files.documents import pdf, sheet, word, zipped
from tests.handlers.media.pictures import oriented, photograph, written
from tests.handlers.receiver import Answer, Receiver
from tests.scanner import LONGEST, Scanner, eicar

EVERY = ("virus_scan", "validate", "optimize", "thumbnail", "convert", "compress", "extract_text")


async def taken(ctx: dict[Any, Any], content: bytes, *operations: str, **fields: Any) -> HandlerRun:
    """Process a file of the allowed folder."""
    settings = ctx["settings"].files
    (settings.source_dirs[0] / "upload").write_bytes(content)
    given = {"file_id": "f-1", "path": "upload", "file_name": "my file.bin", "operations": operations, **fields}
    return await run_handler(process_file, ProcessFile.model_validate(given), settings=WorkerSettings, ctx=ctx)


def made(run: HandlerRun, operation: str) -> MadeFile:
    (found,) = [each for each in run.value().files if each.operation == operation]
    return found


def content_of(tmp_path: Path, file: MadeFile) -> bytes:
    return (tmp_path / "objects" / file.key).read_bytes()


async def test_the_seeds_upload(opened: dict[Any, Any], tmp_path: Path) -> None:
    async with Receiver(Answer(200, pdf("Invoice 42"))) as web:
        job = ProcessFile.model_validate(
            {
                "fileId": "file-123",
                "fileUrl": f"{web.url}/file.pdf",
                "fileName": "document.pdf",
                "fileType": "application/pdf",
                "fileSize": len(pdf("Invoice 42")),
                "userId": "user-123",
                "processingType": "virus_scan",
            }
        )
        run = await run_handler(process_file, job, settings=WorkerSettings, ctx=opened)
    result = run.value()
    assert (result.content_type, result.size, result.scanned) == ("application/pdf", len(pdf("Invoice 42")), True)
    assert result.sha256 == hashlib.sha256(pdf("Invoice 42")).hexdigest()
    (kept,) = result.files
    assert kept.key == f"files/file-123/{result.sha256[:32]}.pdf"
    assert content_of(tmp_path, kept) == pdf("Invoice 42")
    assert [percent for percent, _ in run.progress] == [10, 30, 50, 100]


async def test_a_photograph_with_all_that_can_be_done(opened: dict[Any, Any], tmp_path: Path) -> None:
    source = oriented(6, 800, 600)
    run = await taken(opened, source, *EVERY[:6], file_type="image/jpeg", compress_to="zip", convert_to="avif")
    assert [each.operation for each in run.value().files] == ["store", *EVERY[2:6]], "in the order of the pipeline"
    optimized, thumbnail, converted = (
        Image.open(io.BytesIO(content_of(tmp_path, made(run, name)))) for name in ("optimize", "thumbnail", "convert")
    )
    assert (optimized.format, optimized.size) == ("JPEG", (800, 600))
    assert not optimized.getexif()
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (300, 225))
    assert (converted.format, converted.size) == ("AVIF", (800, 600))
    with zipfile.ZipFile(io.BytesIO(content_of(tmp_path, made(run, "compress")))) as archive:
        assert archive.namelist() == ["my file.bin"]
        assert archive.read("my file.bin") == source
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize(
    ("compress_to", "unpack"),
    [("gzip", gzip.decompress), ("zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data))],
)
async def test_compressing(opened: dict[Any, Any], tmp_path: Path, compress_to: str, unpack: Any) -> None:
    text = b"the same again and again\n" * 1000
    run = await taken(opened, text, "compress", compress_to=compress_to)
    packed = content_of(tmp_path, made(run, "compress"))
    assert unpack(packed) == text
    assert len(packed) < len(text) / 20


FRENCH = "Él\u00e8ve de l\u2019\u00e9cole \u2013 \u20ac 5"


@pytest.mark.parametrize(
    ("content", "content_type", "text"),
    [
        (pdf("Hello\\nworld"), "application/pdf", "Hello"),
        (word(FRENCH, "second", table=[["a", "b"], ["c", "d"]]), None, f"{FRENCH}\nsecond\na b\nc d"),
        (sheet([["name", "price"], ["tea", "5"]]), None, "Prices\nname price\ntea 5"),
        (FRENCH.encode("utf-16"), "text/plain", FRENCH),
        ("\ufeffa\r\nb\u00a0\u200bc\t\td\r\r\r\re".encode(), "text/plain", "a\nb c d\n\ne"),
        ("caf\u00e9 \u20ac".encode("cp1252"), "text/plain", "caf\u00e9 \u20ac"),
        (
            b"<!DOCTYPE html><head><title>no</title></head><script>no()</script><p>a &amp; b</p><p>c<br>d</p><style>x",
            "text/html",
            "a & b\n\nc\nd",
        ),
        # Neither has to be there: where a head ends its reader finds out.
        (b"<html><head><title>no</title><style>no</style><body><p>seen", "text/html", "seen"),
        (b"<!doctype html><head><meta charset=utf-8><title>no</title><p>seen", "text/html", "seen"),
        ('<html><meta charset="shift_jis"><body>日本'.encode("shift_jis"), "text/html", "日本"),
    ],
)
async def test_text(
    opened: dict[Any, Any], tmp_path: Path, content: bytes, content_type: str | None, text: str
) -> None:
    run = await taken(opened, content, "extract_text")
    assert content_of(tmp_path, made(run, "extract_text")).decode().startswith(text)
    assert run.value().preview.startswith(text)
    assert run.value().text >= len(text)
    assert content_type is None or run.value().content_type == content_type


class Overtaken:
    """A scanner in whose back the uploader writes the file anew."""

    def __init__(self, scanner: Clamd, path: Path, content: bytes) -> None:
        self._scanner, self._path, self._content = scanner, path, content

    async def scan(self, file: BinaryIO) -> str | None:
        found = await self._scanner.scan(file)
        self._path.write_bytes(self._content)
        return found


async def test_what_is_kept_is_what_was_scanned(opened: dict[Any, Any], tmp_path: Path) -> None:
    """Who may write in the folder can write into the file while it is worked on."""
    service = opened["files"]
    path = service.settings.source_dirs[0] / "upload"
    opened["files"] = replace(service, scanner=Overtaken(service.scanner, path, eicar()))
    run = await taken(opened, b"harmless", "compress", "extract_text")
    assert path.read_bytes() == eicar()
    assert content_of(tmp_path, made(run, "store")) == b"harmless"
    assert gzip.decompress(content_of(tmp_path, made(run, "compress"))) == b"harmless"
    assert run.value().sha256 == hashlib.sha256(b"harmless").hexdigest()
    assert list((tmp_path / "temp").iterdir()) == []


async def test_a_page_is_kept_as_a_text(opened: dict[Any, Any], tmp_path: Path) -> None:
    """No browser that follows its link runs what somebody has written into it."""
    page = b"<html><body><script>fetch('/me')</script>seen"
    run = await taken(opened, page, "extract_text")
    kept = made(run, "store")
    assert (kept.content_type, kept.key.rpartition(".")[2]) == ("text/plain", "txt")
    assert content_of(tmp_path, kept) == page
    assert (run.value().content_type, run.value().preview) == ("text/html", "seen")


def test_normalising_loses_no_words() -> None:
    assert normalised("e\u0301 \u0635\u0628\u0627\u062d  日本\u3000語 \x07\u00ad.") == "é صباح 日本 語 ."


async def test_the_first_page_of_a_pdf_is_drawn(opened: dict[Any, Any], tmp_path: Path) -> None:
    run = await taken(opened, pdf("Hello"), "thumbnail", thumbnail_width=100, thumbnail_height=100)
    page = Image.open(io.BytesIO(content_of(tmp_path, made(run, "thumbnail"))))
    assert page.size == (100, 50)
    assert page.convert("L").getextrema()[0] < 128, "there is something on it"  # type: ignore[operator]


@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_a_virus_goes_into_quarantine(clamd: Scanner, tmp_path: Path, way: str) -> None:
    ctx: dict[Any, Any] = {"settings": settings_in(tmp_path, clamd=clamd.addresses[way])}
    await open_files(ctx)
    inner = zipped({"eicar.com": eicar()})
    run = await taken(ctx, zipped({"a/b.zip": inner}))
    assert (run.ending, run.reason) == ("failed", "permanent")
    digest = hashlib.sha256(zipped({"a/b.zip": inner})).hexdigest()
    assert str(run.error).startswith("the virus scanner finds Eicar-Test-Signature")
    stored = [path.relative_to(tmp_path / "objects") for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert [str(path) for path in stored if not str(path).startswith(".arqd")] == [f"quarantine/f-1/{digest}"]
    assert not (tmp_path / "in" / "upload").exists(), "it is not left where it was"
    await ctx["processes"].close()


async def test_without_its_scanner_nothing_passes(tmp_path: Path) -> None:
    away = f"unix://{tmp_path}/nobody.ctl"
    ctx: dict[Any, Any] = {"settings": settings_in(tmp_path, clamd=away)}
    await open_files(ctx)
    run = await taken(ctx, pdf())
    assert run.ending == "retried"
    assert isinstance(run.error, ScannerUnavailable)
    assert not (tmp_path / "objects").exists()


async def test_what_a_scanner_may_do(clamd: Scanner, tmp_path: Path) -> None:
    def file(size: int) -> io.BytesIO:
        return io.BytesIO(b"x" * size)

    for address in clamd.addresses.values():
        found = Clamd(address, 20)
        assert (await found.version()).startswith("ClamAV")
        assert await found.scan(file(LONGEST - 1)) is None
        with pytest.raises(ScannerRefused, match="larger than the virus scanner takes"):
            await found.scan(file(5 * LONGEST))

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    async with await asyncio.start_unix_server(mute, tmp_path / "mute.ctl"):
        with pytest.raises(ScannerUnavailable):
            await Clamd(f"unix://{tmp_path}/mute.ctl", 5).scan(file(1000))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ScannerUnavailable, match="broke off: no answer in time"):
            await Clamd(f"tcp://127.0.0.1:{silent.getsockname()[1]}", 0.2).scan(file(1000))


async def test_switching_the_scanner_off_leaves_traces(redis_url: str, producer: Producer, tmp_path: Path) -> None:
    family = load_family(WorkerSettings)
    family.ctx["settings"] = settings_in(tmp_path, virus_scan=False)
    (tmp_path / "in" / "a.png").write_bytes(written(photograph(), "PNG"))
    job = await producer.enqueue(ProcessFile(file_id="1", path="a.png", file_name="a.png"))
    await run_burst(redis_url, family)
    assert (await job.result(30)).scanned is False
    assert "not scanned for viruses: ARQD_FILES__VIRUS_SCAN is false" in (await job.logs()).lines[0].text
    page = await Audit(producer.redis).page()
    assert [(entry.action, entry.actor) for entry in page.entries] == [("files.scan-off", "files")]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"file_size": 5}, "was declared with 5 bytes, and has"),
        ({"file_size": 200_000_000}, "the limit"),
        ({"file_type": "image/jpeg"}, "was declared as image/jpeg, and is application/pdf"),
        ({"file_type": "application/x-msdownload"}, "which is not accepted"),
        ({"operations": ["optimize"]}, "pictures are optimized"),
        ({"operations": ["convert"]}, "pictures are converted"),
    ],
)
async def test_what_does_not_fit(opened: dict[Any, Any], fields: dict[str, Any], told: str) -> None:
    run = await taken(opened, pdf(), **fields)
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(Exception, match=told):
        run.value()


async def test_types_of_uploads_and_of_texts(clamd: Scanner, tmp_path: Path) -> None:
    ctx: dict[Any, Any] = {"settings": settings_in(tmp_path, clamd=clamd.addresses["unix"])}
    await open_files(ctx)
    refused = await taken(ctx, word("x"))
    assert "accepted are jpg, pdf, png" in str(refused.error)
    assert (await taken(ctx, word("x"), "extract_text")).ending == "completed"
    await ctx["processes"].close()


def test_payloads() -> None:
    least = {"file_id": "1", "path": "a", "file_name": "a.txt"}
    assert ProcessFile.model_validate({**least, "operation": "extract_text"}).operations == ("extract_text",)
    assert ProcessFile.model_validate(
        {"fileId": "1", "filePath": "a", "fileName": "b", "operation": "resize"}
    ).operations
    for fields in (
        {"file_name": "../a"},
        {"file_name": "a/b"},
        {"file_name": "a\nb"},
        {"file_id": "../x"},
        {"file_url": "https://example.com/a"},
        {"operations": ["explode"]},
        {"file_type": "no type"},
        {"file_url": "ftp://example.com/a", "path": None},
    ):
        with pytest.raises(ValidationError):
            ProcessFile.model_validate({**least, **fields})


async def test_the_same_upload_at_the_same_time(opened: dict[Any, Any]) -> None:
    runs = await asyncio.gather(*(taken(opened, pdf("twice")) for _ in range(4)))
    assert [run.ending for run in runs] == ["completed"] * 4
    assert len({made(run, "store").key for run in runs}) == 1


def test_a_disk_without_room_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    """Archives inside an archive lie on the disk of ARQD_FILES__TEMP_DIR while they are looked at."""
    archive = io.BytesIO(zipped({"in.zip": zipped({"a.txt": "a"})}))
    weigh(archive, "application/zip", Scales(10, 1000, 10, 3, str(tmp_path)))
    with pytest.raises(FileNotFoundError):
        weigh(archive, "application/zip", Scales(10, 1000, 10, 3, str(tmp_path / "gone")))


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["[Content_Types].xml", "a.txt"])
def test_an_archive_whose_files_are_broken(tmp_path: Path, packing: int, name: str) -> None:
    """Nothing to try again: it will not mend."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", packing) as file:
        file.writestr(name, random.Random(7).randbytes(5000).hex())
    data = bytearray(archive.getvalue())
    # Behind the head of what is packed.
    data[200:400] = bytes(200)
    assert type_of(io.BytesIO(data)) == "application/zip"
    with pytest.raises(BadArchive, match="cannot be read"):
        weigh(io.BytesIO(data), "application/zip", Scales(10, 100_000, 100, 3, str(tmp_path)))


async def test_what_is_in_quarantine_stays_there(clamd: Scanner, tmp_path: Path) -> None:
    """A file of the object store goes there, too; one that lies there and is looked at again must not vanish."""
    ctx: dict[Any, Any] = {"settings": settings_in(tmp_path, clamd=clamd.addresses["unix"])}
    await open_files(ctx)
    content = zipped({"eicar.com": eicar()})
    store, key = ctx["files"].store, f"quarantine/f-1/{hashlib.sha256(content).hexdigest()}"
    await store.put("uploads/1", content)
    for source in ("uploads/1", key):
        run = await taken(ctx, content, path=None, key=source)
        assert run.reason == "permanent"
        assert await store.head(key) is not None
    assert await store.head("uploads/1") is None
    await ctx["processes"].close()
