"""One frame of a picture: brought into a plain form, and transformed. Runs in a process of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from PIL import Image, ImageCms, ImageColor, ImageDraw, ImageFilter, ImageFont

from daemon.errors import PermanentError
from handlers.integrations.pictures.fitting import Size, fitted, placed, within

Frame = Image.Image
Step = Mapping[str, Any]
LANCZOS = Image.Resampling.LANCZOS
#: A filter may first shrink by whole factors down to so many times the size, at a loss nobody sees.
GAP = 3.0
#: EXIF's tag of how a camera was held, and what brings its picture upright; from 5 on width and height change places.
ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Pixels a step may make: a rotation makes a picture larger.
LARGEST = 16_383


def plain(frame: Frame, profile: bytes | None = None) -> Frame:
    """Give a frame as RGB, RGBA or L in sRGB with eight bits.

    Args:
        profile: the colours it is in (ICC).
    """
    if frame.mode.startswith(("I", "F")):
        # Sixteen bits; Pillow itself would cut off what is above 255.
        frame = frame.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if frame.mode in ("P", "PA") or "transparency" in frame.info:
        frame = frame.convert("RGBA" if "transparency" in frame.info or frame.mode == "PA" else "RGB")
    if profile and frame.mode in ("RGB", "RGBA", "CMYK", "L"):
        frame = _in_srgb(frame, profile)
    wanted = {"LA": "RGBA", "La": "RGBA", "RGBa": "RGBA", "1": "L"}.get(frame.mode, "RGB")
    return frame if frame.mode in ("RGB", "RGBA", "L") else frame.convert(wanted)


def transformed(frame: Frame, steps: Sequence[Step], marks: Sequence[Frame], whole: Size) -> Frame:
    """Make the steps in their order.

    Args:
        marks: pictures of the watermarks that have one, in their order.
        whole: size of the frame, which may have been decoded at a fraction of it for the first step.

    Raises:
        PermanentError: a step cannot be made with this picture.
    """
    left = iter(marks)
    for number, step in enumerate(steps):
        kind = step["type"]
        size = frame.size if number else whole
        if kind == "resize":
            frame = _resized(frame, step, size)
        elif kind == "thumbnail":
            frame = scaled(frame, within(size, step["width"], step["height"]))
        elif kind == "watermark":
            mark = next(left) if step["text"] is None else _written(step["text"], step["colour"])
            frame = _watermarked(frame, mark, step)
        else:
            frame = _STEPS[kind](frame, step)
    return frame


def held(frame: Frame) -> int:
    """Give how the camera was held, by EXIF: 1 to 8, and 1, upright, where that is not told in order.

    It may load the frame, and raises what that raises.
    """
    told = frame.getexif().get(ORIENTATION)
    return told if isinstance(told, int) and told in _TURNS else 1


def upright(frame: Frame) -> Frame:
    """Turn a frame as its EXIF orientation says.

    Pillow's own `exif_transpose` writes the EXIF data anew, which are not kept here, and fails where they are odd.
    """
    turn = _TURNS.get(held(frame))
    return frame.copy() if turn is None else frame.transpose(turn)


def _resized(frame: Frame, step: Step, size: Size) -> Frame:
    to = fitted(size, step["width"], step["height"], step["fit"], step["without_enlargement"])
    _bounded(to.frame)
    room = (to.scaled[0] - to.frame[0], to.scaled[1] - to.frame[1])
    if room[0] > 0 or room[1] > 0:
        left, top = placed(room, step["position"])
        across, down = frame.width / to.scaled[0], frame.height / to.scaled[1]
        box = (left * across, top * down, (left + to.frame[0]) * across, (top + to.frame[1]) * down)
        return scaled(frame, to.frame, box)
    frame = scaled(frame, to.scaled)
    if to.frame == to.scaled:
        return frame
    return _on(step["background"], to.frame, frame, placed((-room[0], -room[1]), step["position"]))


def scaled(frame: Frame, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Frame:
    """Resize a frame, or a box of it; colours of transparent pixels do not bleed into the others."""
    if box is None and size == frame.size:
        return frame
    if frame.mode == "RGBA":
        return frame.convert("RGBa").resize(size, LANCZOS, box, GAP).convert("RGBA")
    return frame.resize(size, LANCZOS, box, GAP)


def _cropped(frame: Frame, step: Step) -> Frame:
    left, top = step["left"], step["top"]
    right, bottom = left + step["width"], top + step["height"]
    if right > frame.width or bottom > frame.height:
        raise PermanentError(
            f"crop {step['width']}x{step['height']}+{left}+{top} is not inside the picture, which is "
            f"{frame.width}x{frame.height} there"
        )
    return frame.crop((left, top, right, bottom))


def _rotated(frame: Frame, step: Step) -> Frame:
    angle = step["angle"] % 360
    if angle % 90 == 0:
        turns = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
        return frame.transpose(turns[int(angle)]) if angle else frame
    fill = _filled(step["background"], frame)
    mode = "RGBA" if len(fill) == 4 else "RGB"
    turned = frame.convert(mode).rotate(-angle, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)
    _bounded(turned.size)
    return turned


def _blurred(frame: Frame, step: Step) -> Frame:
    return _filtered(frame, ImageFilter.GaussianBlur(step["sigma"]))


def _sharpened(frame: Frame, step: Step) -> Frame:
    return _filtered(frame, ImageFilter.UnsharpMask(step["sigma"], step["amount"], threshold=0))


def _filtered(frame: Frame, by: ImageFilter.Filter) -> Frame:
    if frame.mode == "RGBA":
        return frame.convert("RGBa").filter(by).convert("RGBA")
    return frame.filter(by)


def _gray(frame: Frame, step: Step) -> Frame:
    if frame.mode != "RGBA":
        return frame.convert("L")
    luminance = frame.convert("L")
    return Image.merge("RGBA", (luminance, luminance, luminance, frame.getchannel("A")))


def _watermarked(frame: Frame, mark: Frame, step: Step) -> Frame:
    margin = int(min(frame.size) * step["margin"] + 0.5)
    inner = (max(1, frame.width - 2 * margin), max(1, frame.height - 2 * margin))
    size = fitted(mark.size, max(1, int(frame.width * step["width"])), inner[1], "inside").scaled
    mark = scaled(mark.convert("RGBA"), size)
    left, top = placed((max(0, inner[0] - size[0]), max(0, inner[1] - size[1])), step["position"])
    alpha = mark.getchannel("A").point(lambda value: value * step["opacity"])
    mark.putalpha(alpha)
    layer = Image.new("RGBA", frame.size, (0, 0, 0, 0))
    layer.paste(mark, (left + margin, top + margin))
    made = Image.alpha_composite(frame.convert("RGBA"), layer)
    return made if frame.mode == "RGBA" else made.convert("RGB")


# For the frames of an animation; a process does many jobs, and each has words of its own.
@lru_cache(maxsize=4)
def _written(text: str, colour: str) -> Frame:
    font = ImageFont.load_default(96)
    left, top, right, bottom = font.getbbox(text)
    size = (max(1, int(right - left) + 8), max(1, int(bottom - top) + 8))
    mark = Image.new("RGBA", size, (0, 0, 0, 0))
    # A shadow, so that it is seen on any ground.
    for offset, fill in ((3, "#000000a0"), (0, colour)):
        layer = Image.new("RGBA", size, (0, 0, 0, 0))
        ImageDraw.Draw(layer).text((4 - left + offset, 4 - top + offset), text, fill=fill, font=font)
        mark = Image.alpha_composite(mark, layer)
    return mark


def _on(background: str, size: tuple[int, int], frame: Frame, at: tuple[int, int]) -> Frame:
    fill = _filled(background, frame)
    ground = Image.new("RGBA" if len(fill) == 4 else "RGB", size, fill)
    ground.paste(frame, at)
    return ground


def _filled(background: str, frame: Frame) -> tuple[int, ...]:
    """Give a colour for a frame: with alpha where either of them has it."""
    colour = ImageColor.getrgb(background)
    if len(colour) == 4 and colour[3] == 255:
        colour = colour[:3]
    return (*colour, 255) if frame.mode == "RGBA" and len(colour) == 3 else colour


def _bounded(size: tuple[int, int]) -> None:
    if max(size) > LARGEST:
        raise PermanentError(f"a step would make a picture of {size[0]}x{size[1]}; {LARGEST} is the largest side")


def _in_srgb(frame: Frame, profile: bytes) -> Frame:
    if b"sRGB" in profile[:4096]:
        return frame
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if frame.mode == "RGBA":
            colours = ImageCms.profileToProfile(frame.convert("RGB"), source, _srgb(), outputMode="RGB")
            assert colours is not None
            colours.putalpha(frame.getchannel("A"))
            return colours
        made = ImageCms.profileToProfile(frame, source, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        # A profile that is broken, or of another kind of colours: the numbers are taken as they are.
        return frame
    return made or frame


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


_STEPS = {
    "crop": _cropped,
    "rotate": _rotated,
    "blur": _blurred,
    "sharpen": _sharpened,
    "grayscale": _gray,
}
