"""Hostile files, made when the test runs, each with what must become of it."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zstandard
from PIL import Image

from tests.handlers.files import documents as made
from tests.handlers.media.pictures import animation, photograph, png, written
from tests.scanner import eicar

ZEROS = 30_000_000


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file and its job.

    Attributes:
        told: what its error says (a regular expression); "" when it is done all the same.
        without: what must be in no file that is made of it.
    """

    name: str
    content: bytes
    told: str
    fields: dict[str, Any] = field(default_factory=dict)
    without: bytes = b""


def pictures() -> Iterator[Hostile]:
    """For ``process_image``."""
    none, broken, large = "this is no picture", "the picture cannot be read", "the limits are"
    jpeg, dot_png = written(photograph(), quality=90), written(photograph(), "PNG")
    row = zlib.compress(bytes(3 * 60_000 + 1))
    yield Hostile("png of 60,000 x 60,000", png(60_000, 60_000, row), large)
    black = zlib.compressobj(9)
    data = b"".join(black.compress(bytes(30_001)) for _ in range(1000)) + black.flush()
    yield Hostile("png bomb that is really there", png(30_000, 30_000, data, colour=0), large)
    yield Hostile("jpeg of 65,500 x 65,500", _sized_jpeg(jpeg, 65_500), large)
    yield Hostile(
        "gif of 65,535 x 65,535",
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"\x3b",
        none,
    )
    yield Hostile("gif of 3,000 frames", _gif(3000), "in 3000 frames; the limits")
    yield Hostile("apng of a million frames", png(9000, 9000, row, acTL=struct.pack(">II", 1_000_000, 0)), large)
    yield Hostile("bmp of a billion pixels", _bmp(40_000), large)
    yield Hostile("tiff whose list goes round", b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 8), none)
    yield Hostile("webp of 16,383 x 16,383", _webp(16_383), broken)
    for name, whole in (("jpeg", jpeg), ("png", dot_png), ("gif", animation("GIF")), ("webp", animation("WEBP"))):
        yield Hostile(f"{name} cut in the middle", whole[: len(whole) // 2], broken)
        yield Hostile(f"{name} cut in its head", whole[:20], f"{broken}|{none}")
    avif = written(photograph(), "AVIF")
    yield Hostile("avif cut in the middle", avif[: len(avif) // 2], none)
    yield Hostile("png with wrong sums", dot_png.replace(b"IDAT", b"IDAT\xff", 1), broken)
    yield Hostile("png of noise", png(100, 100, os.urandom(5000)), broken)
    yield Hostile(
        "png with a text that unpacks to much",
        png(9, 9, zlib.compress(bytes(9 * 28)), zTXt=b"a\0\0" + zlib.compress(bytes(ZEROS), 9)),
        "data too large",
    )
    yield Hostile(
        "png with a profile that unpacks to much",
        png(9, 9, zlib.compress(bytes(9 * 28)), iCCP=b"a\0\0" + zlib.compress(bytes(ZEROS), 9)),
        "data too large",
    )
    yield Hostile(
        "png that needs much memory",
        written(Image.new("RGBA", (6000, 6000)), "PNG"),
        "more than the 150 MB",
        {"transformations": [{"type": "blur", "sigma": 2}]},
    )
    for name, content in (
        ("nothing", b""),
        ("a byte", b"\xff"),
        ("noise", os.urandom(10_000)),
        ("html", b"<!DOCTYPE html><script>alert(1)</script>"),
        ("svg that reads a file", b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'),
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"),
        ("a program", b"\x7fELF\x02\x01\x01" + bytes(1000)),
        ("pdf", made.pdf()),
        ("zip", made.zipped({"a": b"b"})),
        ("psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3)),
        ("xbm", b"#define x_width 9\n#define x_height 9\nstatic char x_bits[] = {0};"),
    ):
        yield Hostile(f"{name} as a picture", content, none)
    script = b"<script>alert(1)</script>"
    yield Hostile("jpeg with a script in it", written(photograph(), comment=script), "", without=script)
    yield Hostile("jpeg with a zip behind it", jpeg + made.zipped({"evil.php": b"x"}), "", without=b"evil.php")
    yield Hostile("gif that is a script", b"GIF89a/*" + bytes(5) + b"*/=1;alert(1)//", none)
    yield Hostile(
        "jpeg with a mad exif",
        jpeg[:2] + b"\xff\xe1\x00\x20Exif\0\0" + b"MM\0*\xff\xff\xff\xff" + bytes(16) + jpeg[2:],
        "",
    )
    yield Hostile(
        "picture cut outside of itself",
        jpeg,
        "is not inside the picture",
        {"transformations": [{"type": "crop", "left": 900_000, "width": 9, "height": 9}]},
    )


def uploads() -> Iterator[Hostile]:
    """For ``process_file``; every type is taken."""
    virus, unpacked, leads = "finds Eicar", "times its size unpacked", "leads out of it"
    nested = made.zipped({"eicar.com": eicar()})
    for name, content in (
        ("alone", eicar()),
        ("in a zip", nested),
        ("three zips deep", made.zipped({"a.zip": made.zipped({"b.zip": nested})})),
        ("in a gzip", gzip.compress(eicar())),
        ("in a gzip in a zip", made.zipped({"a.gz": gzip.compress(eicar())})),
        ("in a document", made.zipped({"[Content_Types].xml": made.XLSX_TYPES, "xl/vbaProject.bin": eicar()})),
        ("behind a picture", written(photograph()) + eicar()),
    ):
        yield Hostile(f"virus {name}", content, virus)
    bomb = made.zipped({"zeros": bytes(ZEROS)})
    yield Hostile("zip bomb", bomb, unpacked)
    yield Hostile("zip bomb in a zip", made.zipped({"a.zip": bomb}), unpacked)
    yield Hostile("zip whose files are the same bytes", made.overlapping(50, 100_000), "overlap")
    yield Hostile("zip whose files overlap and are large", made.overlapping(500, 1_000_000), unpacked)
    yield Hostile("zip that says it is small", made.lying(bomb, 10), "cannot be read")
    yield Hostile(
        "zip that says it is large",
        made.lying(made.zipped({"a": b"b" * 99}), 2**31),
        "bytes unpacked",
    )
    yield Hostile(
        "zip of a thousand files", made.zipped({str(number): b"" for number in range(1000)}), "more than 500 files"
    )
    deep = made.zipped({"a": b"b"})
    for _ in range(5):
        deep = made.zipped({"a.zip": deep})
    yield Hostile("zip six deep", deep, "more than 3 deep")
    yield Hostile("zip with a way up", made.zipped({"../../etc/cron.d/x": b"a"}), leads)
    yield Hostile(
        "zip with a way from the root",
        made.renamed(made.zipped({"Xetc/passwd": b"a"}), b"Xetc/passwd", b"/etc/passwd"),
        leads,
    )
    yield Hostile(
        "zip with a way of Windows", made.renamed(made.zipped({"C_Xa.exe": b"a"}), b"C_Xa.exe", b"C:\\a.exe"), leads
    )
    yield Hostile(
        "zip with a backslash way up", made.renamed(made.zipped({"__Xa.exe": b"a"}), b"__Xa.exe", b"..\\a.exe"), leads
    )
    yield Hostile(
        "zip with a zero byte in a name",
        made.renamed(made.zipped({"a.txtX.exe": b"a"}), b"a.txtX.exe", b"a.txt\0.exe"),
        leads,
    )
    yield Hostile("zip with a link", made.linked("/etc/passwd"), "a link or a device")
    yield Hostile("zip that is encrypted", made.flagged(made.zipped({"a": b"b"})), "encrypted")
    yield Hostile("zip cut in the middle", made.zipped({"a": os.urandom(5000)})[:3000], "cannot be read")
    yield Hostile("zip with two files of one name", _twice(), "two files of one name")
    yield Hostile("gzip bomb", gzip.compress(bytes(ZEROS)), unpacked)
    yield Hostile("gzip bomb in a gzip", gzip.compress(gzip.compress(bytes(ZEROS))), unpacked)
    yield Hostile("gzip cut in the middle", gzip.compress(os.urandom(5000))[:3000], "cannot be read")
    yield Hostile("zstd bomb", zstandard.compress(bytes(ZEROS)), unpacked)
    yield Hostile("zstd that wants a large window", b"\x28\xb5\x2f\xfd\x00\xf8" + os.urandom(100), "cannot be read")
    text = {"operations": ["extract_text"]}
    document = zipfile.ZipFile(io.BytesIO(made.word("x")))
    parts = {name: document.read(name) for name in document.namelist()}
    laughs = (
        b'<!DOCTYPE x [<!ENTITY a "'
        + b"ha" * 1000
        + b'">'
        + b"".join(b'<!ENTITY a%d "%s">' % (n, (b"&a%d;" % (n - 1) if n else b"&a;") * 50) for n in range(9))
        + b"]><w:document xmlns:w='x'><w:body>&a8;</w:body></w:document>"
    )
    yield Hostile(
        "docx that laughs a billion times",
        made.zipped(parts | {"word/document.xml": laughs}),
        "no text can be read",
        text,
    )
    file = (
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
        + parts["word/document.xml"].replace(b"<w:t>x</w:t>", b"<w:t>&a;</w:t>").partition(b"?>")[2]
    )
    yield Hostile(
        "docx that reads a file",
        made.zipped(parts | {"word/document.xml": file}),
        "",
        text,
        b"root:",
    )
    yield Hostile("docx that is a bomb", made.zipped(parts | {"word/document.xml": bytes(ZEROS)}), unpacked, text)
    yield Hostile(
        "xlsx with a cell far away", made.sheet([["a"]], at="XFD1048576"), "ProcessCrashed: .*ended by itself", text
    )
    yield Hostile(
        "xlsx without a workbook", made.zipped({"[Content_Types].xml": made.XLSX_TYPES}), "no text can be read", text
    )
    yield Hostile("pdf with a password", made.locked_pdf(), "is encrypted")
    yield Hostile("pdf cut in the middle", made.pdf()[:150], "the PDF cannot be read")
    yield Hostile("pdf that is only a head", b"%PDF-1.7\n", "the PDF cannot be read")
    yield Hostile(
        "pdf whose pages go round", made.pdf(kids="2 0 R 2 0 R"), "the PDF is broken", {"operations": ["thumbnail"]}
    )
    yield Hostile(
        "pdf with a page as large as a town",
        made.pdf(box="0 0 14400000 14400000"),
        "",
        {"operations": ["thumbnail"]},
    )
    yield Hostile(
        "pdf with a script",
        made.pdf(extra="/OpenAction << /S /JavaScript /JS (app.alert(1)) >>"),
        "",
        {"operations": ["thumbnail", "extract_text"]},
    )
    yield Hostile(
        "pdf with a zip behind it", made.pdf() + made.zipped({"a": b"b"}), "", {"operations": ["extract_text"]}
    )
    yield Hostile(
        "a program called png", b"MZ" + bytes(1000), "octet-stream by its content", {"file_type": "image/png"}
    )
    yield Hostile(
        "html called pdf",
        b"<html><script>x</script>",
        "declared as application/pdf, and is text/html",
        {"file_type": "application/pdf"},
    )
    yield Hostile(
        "png called jpeg",
        written(photograph(), "PNG"),
        "declared as image/jpeg, and is image/png",
        {"file_type": "image/jpeg"},
    )
    yield Hostile(
        "zip called docx",
        made.zipped({"a": b"b"}),
        "and is application/zip by its content",
        {"file_type": "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
    )
    yield Hostile("text with zero bytes", b"a\0b" * 100, "octet-stream by its content")
    yield Hostile("html a hundred thousand deep", b"<html>" + b"<div>" * 100_000, "", text)
    yield Hostile("html behind thousands of comments", b"<!-- -->" * 8000 + b"<p>", "", text)
    yield Hostile("a picture that says it is huge", png(60_000, 60_000, b""), "the limits are")
    yield Hostile("a size that is a lie", b"short", "was declared with 9,999 bytes", {"file_size": 9999})


def _sized_jpeg(jpeg: bytes, side: int) -> bytes:
    found = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:found] + struct.pack(">HH", side, side) + jpeg[found + 4 :]


def _gif(frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def _bmp(side: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def _webp(side: int) -> bytes:
    body = (
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", side - 1)[:3] + struct.pack("<I", side - 1)[:3]
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _twice() -> bytes:
    return made.renamed(made.zipped({"a.txt": b"1", "b.txt": b"2"}), b"b.txt", b"a.txt")
