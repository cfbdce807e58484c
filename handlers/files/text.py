"""The text of documents: PDF, DOCX, XLSX, HTML and plain text, brought into one form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import BinaryIO

from daemon.errors import PermanentError
from handlers.files.types import DOCX, XLSX

_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_BREAKS = re.compile("\r\n?|[\u0085\u2028\u2029\x0b\x0c]")
_SPACES = re.compile(r"[^\S\n]+")
_ROOM = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")
#: Elements that stand on lines of their own.
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "fieldset", "figcaption", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"),
    *("section", "table", "td", "th", "tr", "ul"),
}
#: Not the head, whose end need not be told: of what is in it only the title would be seen.
_SILENT = frozenset({"script", "style", "template", "noscript", "title"})


def extract(file: BinaryIO, kind: str, limit: int) -> str:
    """Give the text of a file.

    Args:
        kind: its content type.
        limit: most bytes of text.

    Raises:
        PermanentError: there is none to be had from this type, the file is broken or encrypted, or has more text.
    """
    readers: dict[str, Callable[[BinaryIO], Iterator[str]]] = {
        "application/pdf": _pdf,
        DOCX: _docx,
        XLSX: _xlsx,
        "text/html": _html,
        "text/plain": lambda file: iter((decoded(file.read()),)),
    }
    if kind not in readers:
        raise PermanentError(f"text is extracted from pdf, docx, xlsx, html and txt; this is {kind}")
    file.seek(0)
    held, size = [], 0
    try:
        for part in readers[kind](file):
            held.append(part)
            size += len(part.encode("utf-8", "replace"))
            if size > limit:
                raise PermanentError(f"the file has more than {limit:,} bytes of text (ARQD_FILES__MAX_TEXT)")
    except (PermanentError, MemoryError):
        raise
    except Exception as error:
        # Whatever a library says of a file that is broken in a way of its own.
        raise PermanentError(f"no text can be read from the file: {type(error).__name__}") from error
    return normalised("".join(held))


def normalised(text: str) -> str:
    """Bring text into one form, whatever its language: composed characters (NFC), lines ended by a line feed, one space
    between words, at most one empty line, nothing invisible. What is left says the same."""
    text = _INVISIBLE.sub("", _BREAKS.sub("\n", text))
    text = "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Cn"))
    text = _ROOM.sub("\n", _SPACES.sub(" ", unicodedata.normalize("NFC", text)))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def decoded(content: bytes) -> str:
    """Read bytes as text: by their mark, else as UTF-8, else as Windows does in the west."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _pdf(file: BinaryIO) -> Iterator[str]:
    from handlers.files.pdf import opened

    with opened(file) as document:
        for page in document:
            text = page.get_textpage()
            yield text.get_text_bounded() + "\n\n"
            text.close()
            page.close()


def _docx(file: BinaryIO) -> Iterator[str]:
    import docx
    from docx.table import Table

    def texts(blocks: Iterable[object]) -> Iterator[str]:
        for block in blocks:
            if isinstance(block, Table):
                for row in block.rows:
                    yield "\t".join(cell.text for cell in row.cells) + "\n"
            else:
                yield getattr(block, "text", "") + "\n"

    yield from texts(docx.Document(file).iter_inner_content())


def _xlsx(file: BinaryIO) -> Iterator[str]:
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(file)
    for name in book.sheet_names:
        yield f"{name}\n"
        for row in book.get_sheet_by_name(name).iter_rows():
            if line := "\t".join(str(value) for value in row).strip():
                yield f"{line}\n"
        yield "\n"


def _html(file: BinaryIO) -> Iterator[str]:
    reader = _Reader()
    reader.feed(_as_told(file.read()))
    reader.close()
    yield "".join(reader.parts)


def _as_told(content: bytes) -> str:
    told = re.search(rb"<meta[^>]+charset=[\"']?([A-Za-z0-9_-]+)", content[:4096], re.IGNORECASE)
    try:
        return content.decode(told[1].decode()) if told else decoded(content)
    except (LookupError, UnicodeDecodeError):
        return decoded(content)


class _Reader(HTMLParser):
    """Gathers the text that is seen."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(" ".join(data.split("\n")))
