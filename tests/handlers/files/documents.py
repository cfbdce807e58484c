"""Documents and archives made for the tests, whole ones and broken ones."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import docx

XLSX_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>'
)
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def pdf(
    text: str = "Hello", *, box: str = "0 0 200 100", extra: str = "", trailer: str = "", kids: str = "3 0 R"
) -> bytes:
    """A PDF of one page with a text."""
    content = f"BT /F1 24 Tf 10 40 Td ({text}) Tj ET"
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {extra} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    out, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("cp1252")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return (
        out
        + f"{end}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{len(out)}\n%%EOF\n".encode()
    )


def locked_pdf() -> bytes:
    """One that asks for a password."""
    secret = "<" + "5a" * 32 + ">"
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O {secret} /U {secret} /P -4 >> /ID [<01> <01>]"
    return pdf(trailer=lock)


def word(*paragraphs: str, table: Sequence[Sequence[str]] = ()) -> bytes:
    """A DOCX."""
    document = docx.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    if table:
        grid = document.add_table(len(table), len(table[0]))
        for row, texts in zip(grid.rows, table, strict=True):
            for cell, text in zip(row.cells, texts, strict=True):
                cell.text = text
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def sheet(rows: Sequence[Sequence[str]], *, at: str = "A") -> bytes:
    """An XLSX of one sheet; ``at`` is the cell of a value far away."""
    cells = "".join(
        f'<row r="{number}">'
        + "".join(
            f'<c r="{chr(65 + column)}{number}" t="inlineStr"><is><t>{text}</t></is></c>'
            for column, text in enumerate(row)
        )
        + "</row>"
        for number, row in enumerate(rows, 1)
    )
    if at != "A":
        number = at.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        cells += f'<row r="{number}"><c r="{at}"><v>1</v></c></row>'
    return zipped(
        {
            "[Content_Types].xml": XLSX_TYPES,
            "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
            f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}"><sheets>'
            '<sheet name="Prices" sheetId="1" r:id="rId1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
            f'Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_SHEET}"><sheetData>{cells}</sheetData></worksheet>',
        }
    )


def zipped(members: Mapping[str, bytes | str]) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name) if name.startswith("/") or ".." in name else name, content)
    return buffer.getvalue()


def renamed(archive: bytes, name: bytes, other: bytes) -> bytes:
    """A zip in which a file has another name of the same length, wherever it stands."""
    assert len(name) == len(other)
    return archive.replace(name, other)


def linked(target: str) -> bytes:
    """A zip with a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo("link")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, target)
    return buffer.getvalue()


def overlapping(copies: int, size: int) -> bytes:
    """A zip whose files are all the same bytes: small, and large unpacked."""
    pressed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = pressed.compress(bytes(size)) + pressed.flush()
    about = (20, 0, 8, 0, 0x21, zlib.crc32(bytes(size)), len(data), size)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *about, 1, 0) + b"a" + data
    entries = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *about, len(name), 0, 0, 0, 0, 0, 0) + name
        for name in (f"{number:04d}".encode() for number in range(copies))
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, copies, copies, len(entries), len(local), 0)
    return local + entries + end


def lying(archive: bytes, size: int) -> bytes:
    """A zip that says of its files that they have so many bytes unpacked."""
    out = bytearray(archive)
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = 0
        while (found := archive.find(mark, start)) >= 0:
            out[found + place : found + place + 4] = struct.pack("<I", size)
            start = found + 4
    return bytes(out)


def flagged(archive: bytes) -> bytes:
    """A zip that says its files are encrypted."""
    out = bytearray(archive)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        found = archive.find(mark)
        out[found + place] |= 1
    return bytes(out)
