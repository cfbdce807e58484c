"""Pictures made for the tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "lime", "blue", "yellow")


def photograph(width: int = 160, height: int = 120) -> Image.Image:
    """A picture whose corners have colours of their own: red, lime; blue, yellow."""
    picture = Image.effect_noise((width, height), 20).convert("RGB")
    draw = ImageDraw.Draw(picture)
    across, down = width // 2, height // 2
    for number, colour in enumerate(COLOURS):
        left, top = (number % 2) * across, (number // 2) * down
        draw.rectangle((left, top, left + across - 1, top + down - 1), fill=colour)
    return picture


def written(picture: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def oriented(orientation: int, width: int = 160, height: int = 120) -> bytes:
    """A JPEG that was taken with the camera held so: what is shown upright is always the same picture."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    picture = photograph(width, height)
    if orientation in back:
        picture = picture.transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a secret place"
    return written(picture, "JPEG", quality=95, exif=exif, comment=b"a secret comment")


def animation(format: str, colours: Sequence[str] = COLOURS[:3], size: tuple[int, int] = (60, 40)) -> bytes:
    """An animation, a frame of each colour."""
    first, *others = [Image.new("RGB", size, colour) for colour in colours]
    durations = [50 * (number + 1) for number in range(len(colours))]
    return written(first, format, save_all=True, append_images=others, duration=durations, loop=2)


def corners(picture: Image.Image) -> list[str]:
    """The colours in the corners of a picture, by name."""
    rgb = picture.convert("RGB")
    width, height = rgb.size
    across, down = width // 6, height // 6
    places = [(across, down), (width - 1 - across, down), (across, height - 1 - down)]
    return [_name(rgb.getpixel(place)) for place in (*places, (width - 1 - across, height - 1 - down))]


def _name(pixel: Any) -> str:
    named = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    named |= {"black": (0, 0, 0), "white": (255, 255, 255)}
    return min(named, key=lambda name: sum((a - b) ** 2 for a, b in zip(named[name], pixel, strict=True)))


def png(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 2, **chunks: bytes) -> bytes:
    """A PNG that says what it wants of itself."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    between = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + between + chunk(b"IDAT", data) + chunk(b"IEND", b"")
