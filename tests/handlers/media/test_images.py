"""Pictures through `handlers.integrations.pictures.images`, in this process: what is made, and what is refused."""

from __future__ import annotations

import io
import tempfile
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageCms

from daemon.errors import PermanentError
from handlers.integrations.pictures import frames
from handlers.integrations.pictures.images import process
from handlers.media.payloads import ProcessImage
from tests.handlers.media.pictures import COLOURS, animation, corners, oriented, photograph, written

FORMATS = ("jpeg", "png", "webp", "avif")


def made(
    source: bytes, *steps: Any, marks: tuple[bytes, ...] = (), pixels: int = 10_000_000, **job: Any
) -> Image.Image:
    """What becomes of a picture; the steps are transformations."""
    given = ProcessImage.model_validate({"path": "x", "transformations": steps, **job})
    told: list[int] = []
    with tempfile.TemporaryFile() as target:
        files = [io.BytesIO(source), target, *(io.BytesIO(mark) for mark in marks)]
        result = process(
            given.model_dump(mode="json") | {"max_pixels": pixels}, files, lambda at: told.append(at["percent"])
        )
        target.seek(0)
        content = target.read()
    assert told == [50, 70]
    picture = Image.open(io.BytesIO(content))
    picture.load()
    assert (result["format"], result["width"], result["height"]) == ((picture.format or "").lower(), *picture.size)
    assert result["size"] == len(content)
    assert not {"exif", "icc_profile", "comment", "xmp"} & picture.info.keys(), "metadata is stripped"
    assert b"secret" not in content
    return picture


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(160, 120), (800, 600)])
def test_a_camera_may_be_held_in_any_way(orientation: int, size: tuple[int, int]) -> None:
    picture = made(oriented(orientation, *size), {"type": "resize", "width": 80})
    assert picture.size == (80, 60)
    assert corners(picture) == list(COLOURS)
    assert corners(made(oriented(orientation, *size))) == list(COLOURS)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "P+alpha", "Lab"])
def test_every_kind_of_pixels(mode: str, format: str) -> None:
    options: dict[str, Any] = {}
    if mode == "I;16":
        picture = photograph().convert("L").convert("I").point(lambda value: value * 257).convert("I;16")
    elif mode == "P+alpha":
        picture, options = photograph().quantize(8), {"transparency": 0}
    elif mode == "Lab":
        lab = ImageCms.profileToProfile(
            photograph(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert lab is not None
        picture = lab
    else:
        picture = photograph().convert(mode)
    source = written(picture, "TIFF" if mode in ("CMYK", "Lab") else "PNG", **options)
    result = made(source, {"type": "resize", "width": 80, "height": 60}, {"type": format, "quality": 90})
    if mode in ("RGB", "RGBA", "CMYK", "P"):
        assert corners(result) == list(COLOURS)
    elif mode in ("L", "LA", "I;16"):
        reds = result.convert("L").getpixel((10, 10))
        assert isinstance(reds, int | float)
        assert abs(reds - 76) < 12, "sixteen bits are scaled, not cut off"


@pytest.mark.parametrize(
    ("fit", "size", "seen"),
    [
        ("cover", (40, 40), list(COLOURS)),
        ("contain", (40, 40), list(COLOURS)),
        ("fill", (40, 40), list(COLOURS)),
        ("inside", (40, 30), list(COLOURS)),
        ("outside", (53, 40), list(COLOURS)),
    ],
)
def test_fits(fit: str, size: tuple[int, int], seen: list[str]) -> None:
    picture = made(written(photograph(), "PNG"), {"type": "resize", "width": 40, "height": 40, "fit": fit})
    assert picture.size == size
    assert corners(picture) == seen


def test_borders_and_positions() -> None:
    source = written(photograph(), "PNG")
    wide = {"type": "resize", "width": 160, "height": 60}
    bordered = made(source, {**wide, "fit": "contain", "background": "#ffffff"})
    assert corners(bordered) == ["white"] * 4
    assert corners(made(source, {**wide, "fit": "contain", "position": "left"}))[1::2] == ["black", "black"]
    assert corners(made(source, {**wide, "position": "top"})) == ["red", "lime", "red", "lime"]
    assert corners(made(source, {**wide, "position": "bottom"})) == ["blue", "yellow", "blue", "yellow"]
    see_through = made(source, {**wide, "fit": "contain", "background": "#00000000"}, {"type": "png"})
    assert see_through.mode == "RGBA"
    assert see_through.getpixel((1, 1)) == (0, 0, 0, 0)


def test_steps_are_made_in_their_order() -> None:
    source = written(photograph(), "PNG")
    crop = {"type": "crop", "left": 0, "top": 0, "width": 80, "height": 60}
    assert corners(made(source, crop)) == ["red"] * 4
    assert corners(made(source, {"type": "rotate", "angle": 90}, crop | {"width": 60, "height": 80})) == ["blue"] * 4
    assert corners(made(source, crop, {"type": "rotate", "angle": 90})) == ["red"] * 4
    assert corners(made(source, {"type": "rotate", "angle": 90})) == ["blue", "red", "yellow", "lime"], "clockwise"
    assert corners(made(source, {"type": "rotate", "angle": -90})) == ["lime", "yellow", "red", "blue"]
    with pytest.raises(PermanentError, match=r"crop 80x60\+100\+0 is not inside the picture, which is 160x120 there"):
        made(source, crop | {"left": 100})
    assert made(source, {"type": "resize", "width": 320}, crop | {"left": 200}).size == (80, 60)


def test_rotation_by_any_angle_shows_the_background() -> None:
    turned = made(written(photograph(), "PNG"), {"type": "rotate", "angle": 45, "background": "#ffffff"})
    assert turned.width > 190
    assert turned.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_colours_and_edges() -> None:
    source = written(photograph(), "PNG")
    gray = made(source, {"type": "grayscale"}).convert("RGB")
    assert all(len(set(gray.getpixel((x, 10)))) == 1 for x in (10, 150))  # type: ignore[arg-type]
    across = [made(source, {"type": kind, "sigma": 3}).convert("RGB") for kind in ("blur", "sharpen")]
    at_edge = [abs(picture.getpixel((78, 20))[0] - 255) for picture in across]  # type: ignore[index,operator]
    assert at_edge[0] > 30 > at_edge[1]


def test_a_watermark_is_where_it_should_be() -> None:
    source = written(Image.new("RGB", (200, 100), "black"), "PNG")
    mark = written(Image.new("RGBA", (20, 20), "red"), "PNG")
    step = {"type": "watermark", "key": "mark", "position": "top-left", "opacity": 1, "width": 0.2, "margin": 0.1}
    picture = made(source, step, marks=(mark,)).convert("RGB")
    assert (picture.getpixel((9, 9)), picture.getpixel((12, 12))) == ((0, 0, 0), (255, 0, 0))
    assert (picture.getpixel((49, 49)), picture.getpixel((51, 51))) == ((255, 0, 0), (0, 0, 0))
    half = made(source, {**step, "opacity": 0.5}, marks=(mark,)).convert("RGB").getpixel((20, 20))
    assert half in ((127, 0, 0), (128, 0, 0))
    text = made(source, {"type": "watermark", "text": "© Ada", "opacity": 1}).convert("L")
    assert text.crop((0, 0, 100, 50)).getextrema() == (0, 0)
    assert text.crop((100, 50, 200, 100)).getextrema()[1] > 200  # type: ignore[operator]


@pytest.mark.parametrize("source", ["GIF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("format", FORMATS)
def test_animations_stay_animated_where_the_format_can(source: str, format: str) -> None:
    picture = made(animation(source), {"type": "thumbnail", "width": 30, "height": 30}, output_format=format)
    assert picture.size == (30, 20)
    frames = 1 if format == "jpeg" else 3
    assert getattr(picture, "n_frames", 1) == frames
    for number, colour in enumerate(COLOURS[:frames]):
        picture.seek(number)
        picture.load()
        assert corners(picture) == [colour] * 4
        assert frames == 1 or picture.info["duration"] == 50 * (number + 1)
    if source != "AVIF" and format in ("webp", "png"):
        assert picture.info["loop"] in (2, 3), "GIF counts repetitions, the others showings"


def test_which_format_is_written() -> None:
    jpeg, gif = written(photograph()), animation("GIF", ("red",))
    assert made(jpeg).format == "JPEG"
    assert made(gif).format == "WEBP"
    assert made(written(photograph(), "BMP")).format == "PNG"
    assert made(jpeg, {"type": "webp"}, {"type": "png"}).format == "PNG"
    assert made(jpeg, {"type": "webp", "quality": 10}, output_format="avif").format == "AVIF"
    palette = made(jpeg, {"type": "png", "quality": 10})
    assert palette.mode == "P"
    assert len(palette.getcolors() or []) <= 25


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_quality(format: str) -> None:
    source = written(Image.effect_noise((200, 200), 80).convert("RGB"), "PNG")

    def size(*steps: Any, **job: Any) -> int:
        return len(written(made(source, *steps, output_format=format, **job), "PNG"))

    with tempfile.TemporaryFile() as target:
        sizes = []
        for quality in (10, 90):
            given = ProcessImage.model_validate({"path": "x", "output_format": format, "quality": quality})
            job = given.model_dump(mode="json") | {"max_pixels": 1_000_000}
            target.truncate(0)
            sizes.append(process(job, [io.BytesIO(source), target], lambda at: None)["size"])
    assert sizes[0] < sizes[1] / 2


def test_the_seeds_largest_size() -> None:
    source = written(photograph(1600, 1200))
    assert made(source, max_width=400, max_height=400).size == (400, 300)
    assert made(source, {"type": "rotate", "angle": 90}, max_width=400, max_height=400).size == (300, 400)
    assert made(source, max_width=4000).size == (1600, 1200), "never larger"


def test_transparency_on_jpeg_is_white_and_does_not_bleed() -> None:
    picture = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (50, 0, 100, 100))
    source = written(picture, "PNG")
    assert corners(made(source, output_format="jpeg")) == ["white", "blue", "white", "blue"]
    small = made(source, {"type": "resize", "width": 11}).convert("RGBA")
    red, _, blue, alpha = small.getpixel((5, 5))  # type: ignore[misc]
    assert (red, blue) == (0, 255), "the red nobody sees stays unseen"
    assert 0 < alpha < 255


def test_colours_of_another_profile_become_srgb() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    with_profile = written(photograph(), "PNG", icc_profile=profile.tobytes())
    assert corners(made(with_profile)) == list(COLOURS), "a profile of other colours is left out of account"
    broken = written(photograph(), "PNG", icc_profile=b"no profile")
    assert corners(made(broken)) == list(COLOURS)


def test_the_words_of_watermarks_do_not_pile_up_in_a_process() -> None:
    """Each may have some megabytes, and each user words of his own."""
    for number in range(12):
        made(written(photograph(), "PNG"), {"type": "watermark", "text": f"© user {number}"})
    assert frames._written.cache_info().currsize <= 4


def _broken(format: str) -> list[bytes]:
    """A picture cut at many places, and with bytes changed at others."""
    format, _, animated = format.partition(" ")
    whole = animation(format, size=(24, 16)) if animated else written(photograph(24, 16), format)
    random = Random(format)
    changed = [bytearray(whole) for _ in range(250)]
    for each in changed:
        for _ in range(random.choice((1, 4))):
            each[random.randrange(12, len(each))] = random.choice((0, 127, 255, random.randrange(256)))
    return [*(whole[:end] for end in range(0, len(whole), max(1, len(whole) // 250))), *map(bytes, changed)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PNG animated", "GIF animated", "WEBP animated"]
)
def test_what_is_broken_is_refused_in_whatever_way_it_is(format: str) -> None:
    """An error of a library's own would have the job tried again, for nothing."""
    refused = 0
    for source in _broken(format):
        given = ProcessImage.model_validate({"path": "x", "output_format": "webp", "max_width": 8}).model_dump()
        try:
            process(given | {"max_pixels": 100_000}, [io.BytesIO(source), io.BytesIO()], lambda at: None)
        except PermanentError:
            refused += 1
    assert refused > 50


def test_odd_exif_data_are_no_fault_of_the_picture() -> None:
    # Its maker becomes a width, which is no text.
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    source = written(photograph(160, 120), exif=exif).replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02", 1)
    assert made(source).size == (120, 160)


def test_frames_that_are_shown_for_ever() -> None:
    """Milliseconds of all frames together have 31 bits in WebP."""
    first, *others = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
    source = written(first, "PNG", save_all=True, append_images=others, duration=65_535_000)
    assert made(source, output_format="webp").n_frames == 4  # type: ignore[attr-defined]
