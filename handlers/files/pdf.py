"""PDFs: opened without a password, their first page drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pypdfium2  # type: ignore[import-untyped]

from daemon.errors import PermanentError

#: Most pages of a document.
MOST_PAGES = 5000


@contextmanager
def opened(file: BinaryIO) -> Iterator[Any]:
    """Open a document.

    Raises:
        PermanentError: it is broken, encrypted, or has too many pages.
    """
    file.seek(0)
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise PermanentError("the PDF is encrypted: it can only be opened with a password") from None
        raise PermanentError("the PDF cannot be read: it is broken, or none") from None
    try:
        if not 0 < len(document) <= MOST_PAGES:
            raise PermanentError(f"the PDF has {len(document):,} pages; 1 to {MOST_PAGES:,} are accepted")
        yield document
    except pypdfium2.PdfiumError as error:
        raise PermanentError(f"the PDF is broken: {error}") from None
    finally:
        document.close()


def first_page(file: BinaryIO, width: int, height: int) -> Any:
    """Draw the first page so that it fits into a box; a Pillow image.

    Raises:
        PermanentError: as `opened`, and for a page without a size.
    """
    with opened(file) as document:
        page = document[0]
        across, down = page.get_size()
        if across <= 0 or down <= 0:
            raise PermanentError("the first page of the PDF has no size")
        scale = min(width / across, height / down)
        bitmap = page.render(scale=scale, may_draw_forms=False)
        picture = bitmap.to_pil().convert("RGB")
        bitmap.close()
        page.close()
        return picture
