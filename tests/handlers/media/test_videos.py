"""Videos made by the test, through the family's function and its processes."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from PIL import Image
from pydantic import ValidationError

from daemon.errors import PermanentError
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.integrations.processes import InputRefused
from handlers.media.payloads import ProcessVideo
from handlers.media.tasks import process_video
from handlers.media.videos import transcode
from handlers.media.worker import WorkerSettings, close_media, open_media
from tests.handlers.media.pictures import corners

SECONDS, RATE = 2, 25


def clip(*, sound: bool = True, size: tuple[int, int] = (320, 240)) -> bytes:
    """Two seconds of MP4 that go from black to red."""
    with tempfile.TemporaryFile() as file:
        with av.open(file, "w", format="mp4") as output:
            video: Any = output.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            audio: Any = output.add_stream("aac", rate=48_000, layout="mono") if sound else None
            for number in range(SECONDS * RATE):
                picture = Image.new("RGB", size, (255 * number // (SECONDS * RATE), 0, 0))
                output.mux(video.encode(av.VideoFrame.from_image(picture)))
            output.mux(video.encode(None))
            if audio is not None:
                for start in range(0, 48_000 * SECONDS, 1024):
                    frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
                    frame.sample_rate, frame.pts = 48_000, start
                    frame.planes[0].update(bytes(frame.planes[0].buffer_size))
                    output.mux(audio.encode(frame))
                output.mux(audio.encode(None))
        file.seek(0)
        return file.read()


@pytest.fixture(scope="module")
def video() -> bytes:
    return clip()


@pytest.fixture
async def opened(settings: SimpleNamespace) -> AsyncIterator[dict[Any, Any]]:
    ctx: dict[Any, Any] = {"settings": settings}
    await open_media(ctx)
    yield ctx
    await close_media(ctx)


async def processed(ctx: dict[Any, Any], content: bytes, **fields: Any) -> HandlerRun:
    (ctx["settings"].media.source_dirs[0] / "clip").write_bytes(content)
    job = ProcessVideo.model_validate({"path": "clip", **fields})
    return await run_handler(process_video, job, settings=WorkerSettings, ctx=ctx)


async def test_it_is_looked_at_and_drawn_from(opened: dict[Any, Any], video: bytes, tmp_path: Path) -> None:
    run = await processed(opened, video, thumbnails=2, thumbnail_width=100, poster_at=1.0, target="clips/a.mp4")
    result = run.value()
    facts = result.source
    assert (facts.width, facts.height, facts.frame_rate, facts.video, facts.audio) == (320, 240, 25.0, "h264", "aac")
    assert 1.9 < facts.duration < 2.2
    assert facts.size == len(video)
    assert (result.url, result.result) == (None, None)
    stills = [result.poster, *result.thumbnails]
    assert [(each.width, each.height) for each in stills] == [(320, 240), (100, 75), (100, 75)]
    assert [each.target for each in stills] == ["clips/a-0.jpg", "clips/a-1.jpg", "clips/a-2.jpg"]
    reds = []
    for each in stills:
        picture = Image.open(io.BytesIO((tmp_path / "objects" / each.target).read_bytes())).convert("RGB")
        assert picture.size == (each.width, each.height)
        pixel = picture.getpixel((50, 50))
        assert isinstance(pixel, tuple)
        reds.append(pixel[0])
    assert all(abs(red - 255 * each.at / SECONDS) < 25 for red, each in zip(reds, stills, strict=True))


@pytest.mark.parametrize(("output_format", "codecs"), [("mp4", ("h264", "aac")), ("webm", ("vp9", "opus"))])
async def test_it_is_written_anew(
    opened: dict[Any, Any], video: bytes, tmp_path: Path, output_format: str, codecs: tuple[str, str]
) -> None:
    limits = {"max_width": 160, "max_frame_rate": 10, "video_bitrate": 200_000, "audio_bitrate": 64_000}
    run = await processed(opened, video, output_format=output_format, poster=False, **limits)
    result = run.value()
    facts = result.result
    assert (facts.video, facts.audio) == codecs
    assert (facts.width, facts.height, facts.frame_rate) == (160, 120, 10.0)
    assert 1.9 < facts.duration < 2.3
    assert facts.bitrate < 264_000
    content = (tmp_path / "objects" / result.target).read_bytes()
    assert len(content) == facts.size
    if output_format == "mp4":
        assert content.index(b"moov") < content.index(b"mdat"), "its index comes first"
    with av.open(io.BytesIO(content)) as made:
        frames = [frame.to_image().getpixel((80, 60)) for frame in made.decode(video=0)]
    assert 18 <= len(frames) <= 22
    assert frames[0][0] < 40 < 200 < frames[-1][0]
    percents = [percent for percent, _ in run.progress]
    assert percents == sorted(percents)
    assert len([percent for percent in percents if 30 < percent < 90]) >= 10, "progress goes by the time"
    assert list((tmp_path / "temp").iterdir()) == []


async def test_a_video_without_sound(opened: dict[Any, Any]) -> None:
    run = await processed(opened, clip(sound=False, size=(322, 242)), output_format="mp4", max_width=161)
    assert run.value().result.audio is None
    assert run.value().result.width == 160, "sides are even"


def turned(video: bytes, degrees: int) -> bytes:
    """The same MP4, to be shown turned clockwise: as a camera that was held upright writes it."""
    one, zero = 0x10000, 0
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 0x40000000)
    matrix = {90: (zero, one, -one, zero), 180: (-one, zero, zero, -one), 270: (zero, -one, one, zero)}[degrees]
    place = video.index(upright, video.index(b"tkhd"))
    across, also, down, there = matrix
    return video[:place] + struct.pack(">9i", across, also, 0, down, there, 0, 0, 0, 0x40000000) + video[place + 36 :]


@pytest.mark.parametrize(
    ("degrees", "size", "seen"),
    [(90, (120, 160), ("red", "blue")), (180, (160, 120), ("blue", "blue")), (270, (120, 160), ("blue", "red"))],
)
async def test_a_turned_video_is_made_upright(
    opened: dict[Any, Any], tmp_path: Path, degrees: int, size: tuple[int, int], seen: tuple[str, str]
) -> None:
    with tempfile.TemporaryFile() as file:
        with av.open(file, "w", format="mp4") as output:
            stream: Any = output.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            picture = Image.new("RGB", (160, 120), "red")
            picture.paste("blue", (80, 0, 160, 120))
            for _ in range(10):
                output.mux(stream.encode(av.VideoFrame.from_image(picture)))
            output.mux(stream.encode(None))
        file.seek(0)
        run = await processed(opened, turned(file.read(), degrees), output_format="mp4")
    result = run.value()
    assert (result.source.width, result.source.height) == size
    assert (result.result.width, result.result.height, result.result.rotation) == (*size, 0)
    poster = Image.open(io.BytesIO((tmp_path / "objects" / result.poster.target).read_bytes()))
    with av.open(io.BytesIO((tmp_path / "objects" / result.target).read_bytes())) as made:
        first = next(made.decode(video=0)).to_image()
    for shown in (poster, first):
        assert shown.size == size
        assert (corners(shown)[0], corners(shown)[2]) == seen


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "the video cannot be read"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "the video cannot be read"),
        (b"", "the video cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "the video cannot be read"),
        (b"\0\0\0\x18ftypisom" + b"\xff" * 1000, "the video cannot be read"),
    ],
)
async def test_what_is_no_video_is_refused(opened: dict[Any, Any], tmp_path: Path, content: bytes, told: str) -> None:
    run = await processed(opened, content, output_format="mp4")
    assert isinstance(run.error, InputRefused)
    assert told in str(run.error)
    assert list((tmp_path / "temp").iterdir()) == []


async def test_a_truncated_video_is_refused(opened: dict[Any, Any], video: bytes) -> None:
    run = await processed(opened, video[: len(video) // 2], output_format="mp4")
    assert (run.ending, run.reason) == ("failed", "permanent")


async def test_a_result_may_be_too_large(settings: SimpleNamespace, video: bytes) -> None:
    settings.media = settings.media.model_copy(update={"max_video_result": 1000})
    ctx: dict[Any, Any] = {"settings": settings}
    await open_media(ctx)
    run = await processed(ctx, video, output_format="mp4", poster=False)
    assert "ARQD_MEDIA__MAX_VIDEO_RESULT" in str(run.error)
    await close_media(ctx)


async def test_codecs_nobody_knows(opened: dict[Any, Any], video: bytes) -> None:
    """A picture that cannot be decoded is refused; sound that cannot is left out."""
    run = await processed(opened, video.replace(b"avc1", b"zzzz"))
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert "its codec is not known here" in str(run.error)
    made = (
        await processed(
            opened, video.replace(b"mp4a", b"zzzz").replace(b"esds", b"free"), output_format="mp4", poster=False
        )
    ).value()
    assert (made.source.audio, made.result.audio, made.result.video) == (None, None, "h264")


def test_a_gap_in_its_times_is_filled_within_the_limits() -> None:
    """It is filled with the picture before it: a few bytes of a timestamp would else be hours of work."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        with av.open(source, "w", format="matroska") as output:
            video: Any = output.add_stream("mjpeg", rate=RATE)
            video.width, video.height, video.pix_fmt = 32, 24, "yuvj420p"
            for at in (0, 1, 2, 100_000):
                frame = av.VideoFrame.from_image(Image.effect_noise((32, 24), 100).convert("RGB"))
                frame.pts = at
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
        most = 50_000
        wanted = ProcessVideo(path="x", output_format="webm").model_dump() | {"max_size": most, "max_seconds": 600}
        with pytest.raises(PermanentError, match="more than 50,000 bytes"):
            transcode(wanted, [source, target], lambda told: None)
        assert target.seek(0, 2) < 4 * most


def test_payloads() -> None:
    for fields in (
        {},
        {"path": "a", "url": "https://x"},
        {"path": "a", "output_format": "avi"},
        {"key": "a", "thumbnails": 21},
    ):
        with pytest.raises(ValidationError):
            ProcessVideo.model_validate(fields)
