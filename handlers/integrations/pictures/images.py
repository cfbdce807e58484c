"""A picture from its file to the file of the result. Runs in a process of its own (`handlers.integrations.processes`).

1. Open it by one of the formats we know, and weigh it before anything is decoded.
2. Decode a JPEG no larger than the first step needs.
3. Turn it upright, bring it into sRGB, make the steps: each frame of an animation.
4. Write it without any metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image, ImageFile, ImageSequence, UnidentifiedImageError

from daemon.errors import PermanentError
from handlers.integrations.pictures.fitting import Size, fitted, within
from handlers.integrations.pictures.frames import Frame, Step, held, plain, scaled, transformed, upright
from handlers.integrations.process_child import Tell

#: What is opened; anything else is refused, whatever its suffix says.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP")
TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
QUALITY = {"jpeg": 80, "webp": 80, "avif": 50}
#: How long a frame is shown that does not say, and the longest one can be (a GIF's), milliseconds.
DURATION, LONGEST_DURATION = 100, 655_350
MOST_FRAMES = 2000

#: What Pillow's decoders raise; that of AVIF a RuntimeError for anything.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(RuntimeError, struct.error),
)

# Ours is the limit on pixels, and a picture is whole or refused.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


@dataclass(frozen=True, slots=True)
class Output:
    """How the result is written."""

    format: str
    quality: int | None
    palette: int | None


def process(job: Mapping[str, Any], files: Sequence[BinaryIO], tell: Tell) -> dict[str, Any]:
    """Make a picture.

    Args:
        job: fields of `ProcessImage`, and ``max_pixels``.
        files: the source, where the result goes, and the pictures of watermarks.
        tell: told ``{"percent": …}``.

    Returns:
        ``format``, ``content_type``, ``width``, ``height``, ``frames``, ``size`` (bytes).

    Raises:
        PermanentError: it is no picture, a broken or an oversized one, or a step cannot be made with it.
    """
    source, target, *others = files
    steps: list[Step] = [step for step in job["transformations"] if step["type"] not in TYPES]
    with _readable():
        marks = [plain(_opened(file, job["max_pixels"])) for file in others]
        picture = _opened(source, job["max_pixels"])
        output = _output(job, picture.format or "")
        made = _made(picture, steps, marks, job, output)
    tell({"percent": 50})
    target.seek(0)
    _write(made, target, output, picture)
    tell({"percent": 70})
    return {
        "format": output.format,
        "content_type": TYPES[output.format],
        "width": made[0].width,
        "height": made[0].height,
        "frames": len(made),
        "size": target.seek(0, 2),
    }


def verify(file: BinaryIO, max_pixels: int) -> None:
    """See that a file is a picture that can be decoded.

    Raises:
        PermanentError: it is none, a broken or an oversized one.
    """
    with _readable():
        picture = _opened(file, max_pixels)
        # An eighth of a JPEG is enough to see that it is whole: all of its data are read.
        picture.draft(None, (1, 1))
        picture.load()


@contextmanager
def _readable() -> Iterator[None]:
    """Take what Pillow's decoders raise when they meet something they do not understand for what it means."""
    try:
        yield
    except PermanentError:
        raise
    except _UNREADABLE as error:
        raise PermanentError(f"the picture cannot be read: {_told(error)}") from error


def _opened(file: BinaryIO, max_pixels: int) -> Image.Image:
    file.seek(0)
    try:
        picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise PermanentError("this is no picture: jpeg, png, gif, webp, avif, tiff and bmp are read") from None
    frames = int(getattr(picture, "n_frames", 1)) if _animated(picture) else 1
    if picture.width * picture.height * frames > max_pixels or frames > MOST_FRAMES:
        told = f"{picture.width}x{picture.height}" + (f" in {frames} frames" if frames > 1 else "")
        raise PermanentError(
            f"the picture has {told}; the limits are {max_pixels:,} pixels (MAX_PIXELS) and {MOST_FRAMES:,} frames"
        )
    return picture


def _animated(picture: Image.Image) -> bool:
    return picture.format in ("GIF", "PNG", "WEBP", "AVIF") and bool(getattr(picture, "is_animated", False))


def _output(job: Mapping[str, Any], source: str) -> Output:
    encoder = next((step for step in reversed(job["transformations"]) if step["type"] in TYPES), None)
    own = source.lower() if source.lower() in TYPES else "webp" if source == "GIF" else "png"
    format = job["output_format"] or (encoder["type"] if encoder else own)
    given = encoder["quality"] if encoder and encoder["type"] == format else None
    palette = None
    if format == "png" and given is not None and given < 100:
        palette = max(2, 256 * given // 100)
    return Output(format, given or job["quality"] or QUALITY.get(format), palette)


def _made(
    picture: Image.Image, steps: Sequence[Step], marks: Sequence[Frame], job: Mapping[str, Any], output: Output
) -> list[Frame]:
    """Decode and transform the frames; each keeps its duration."""
    profile = picture.info.get("icc_profile")
    turned = held(picture) >= 5
    whole = (picture.height, picture.width) if turned else picture.size
    if picture.format == "JPEG":
        wanted = _wanted(whole, steps, job)
        if wanted is not None:
            # Decoded at a fraction of its size, where it is to become smaller anyway.
            picture.draft(None, (wanted[1], wanted[0]) if turned else wanted)
    made = []
    for page in ImageSequence.Iterator(picture):
        page.load()
        duration = page.info.get("duration") or DURATION
        frame = transformed(plain(upright(page), profile), steps, marks, whole)
        frame = scaled(frame, within(frame.size if steps else whole, job["max_width"], job["max_height"]))
        # What an APNG says may be more than the other formats can add up.
        frame.info = {"duration": min(max(0, int(duration)), LONGEST_DURATION)}
        made.append(frame)
        if not _animated(picture) or output.format == "jpeg":
            break
    return made


def _wanted(size: Size, steps: Sequence[Step], job: Mapping[str, Any]) -> Size | None:
    """Give the size the first step makes of it, None where it does not resize."""
    first = steps[0] if steps else {"type": "thumbnail", "width": job["max_width"], "height": job["max_height"]}
    if first["type"] == "resize":
        return fitted(size, first["width"], first["height"], first["fit"], first["without_enlargement"]).scaled
    return within(size, first["width"], first["height"]) if first["type"] == "thumbnail" else None


def _write(frames: Sequence[Frame], target: BinaryIO, output: Output, source: Image.Image) -> None:
    durations = [frame.info["duration"] for frame in frames]
    first, *others = [_ready(frame, output) for frame in frames]
    options: dict[str, Any] = {}
    if output.format == "jpeg":
        options = {"quality": output.quality, "optimize": True}
    elif output.format == "png":
        options = {"compress_level": 6}
    elif output.format == "webp":
        options = {"quality": output.quality, "method": 4}
    else:
        options = {"quality": output.quality, "speed": 7, "max_threads": 1}
    if others:
        options |= {"save_all": True, "append_images": others, "duration": durations}
        if output.format != "avif":
            # How often it is shown, 0 for ever; a GIF that does not say is shown once.
            options["loop"] = int(source.info.get("loop", 1 if source.format == "GIF" else 0))
    first.save(target, output.format.upper(), **options)


def _ready(frame: Frame, output: Output) -> Frame:
    """Give a frame as its format can keep it, without anything but pixels."""
    frame.info = {}
    if output.format == "jpeg" and frame.mode == "RGBA":
        ground = Image.new("RGB", frame.size, "white")
        ground.paste(frame, mask=frame.getchannel("A"))
        return ground
    if output.palette:
        return frame.quantize(output.palette, Image.Quantize.FASTOCTREE)
    return frame.convert("RGB") if frame.mode == "L" and output.format in ("webp", "avif") else frame


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
