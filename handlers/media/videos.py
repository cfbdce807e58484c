"""A video looked at, drawn from, and written anew. Runs in a process of its own (`handlers.integrations.processes`).

Files are read through open descriptors by formats we name, so a playlist in a video's clothing can open no other file
and no connection.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.container
from av.filter import Graph
from av.video.frame import VideoFrame

from daemon.errors import PermanentError
from handlers.integrations.pictures.fitting import Size, within
from handlers.integrations.process_child import Tell

#: Formats that are read, by FFmpeg's names.
FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"
CODECS = {"mp4": ("libx264", "aac", "video/mp4"), "webm": ("libvpx-vp9", "libopus", "video/webm")}
#: A title may be in any encoding; PyAV 19 takes each, its predecessors have to be told.
_ANY_TEXT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
MOST_PIXELS = 8192 * 4320
AUDIO_RATE = 48_000
#: How much of a video is read to find out what it is, bytes and microseconds.
PROBE = {"probesize": "10000000", "analyzeduration": "10000000"}

Facts = dict[str, Any]


def probe(job: Mapping[str, Any], files: Sequence[BinaryIO], tell: Tell) -> Facts:
    """Tell what a video is: fields of `handlers.media.payloads.VideoFacts`.

    Raises:
        PermanentError: it is no video, or a broken one.
    """
    with _opened(files[0]) as container:
        return _facts(container, files[0])


def still(job: Mapping[str, Any], files: Sequence[BinaryIO], tell: Tell) -> Facts:
    """Draw a frame as JPEG.

    Args:
        job: ``at`` (seconds), ``width`` (at most so wide, None: as it is).
        files: the video, and where the picture goes.

    Returns:
        ``at`` (of the frame that was found), ``width``, ``height``.
    """
    source, target = files
    target.seek(0)
    target.truncate()
    with _opened(source) as container:
        frame, at = _frame_at(container, job["at"])
        rotation = _rotation(frame)
        picture = frame.to_image()  # type: ignore[no-untyped-call]
        picture = picture.rotate(rotation, expand=True) if rotation else picture
        size = within(picture.size, job["width"], None)
        picture.resize(size).save(target, "JPEG", quality=85, optimize=True)
    return {"at": round(at, 3), "width": size[0], "height": size[1]}


def transcode(job: Mapping[str, Any], files: Sequence[BinaryIO], tell: Tell) -> Facts:
    """Write a video anew.

    Args:
        job: ``output_format``, ``max_width``, ``max_height``, ``video_bitrate``, ``audio_bitrate``, ``max_frame_rate``,
            ``max_size`` (bytes), ``max_seconds`` (of work).
        files: the video, and where the result goes.
        tell: told ``{"share": 0 … 1}`` of the video's time.

    Returns:
        Facts of the result, and its ``content_type``.

    Raises:
        PermanentError: there is no picture in it, it cannot be decoded, or the result is too large.
    """
    source, target = files
    video_codec, audio_codec, content_type = CODECS[job["output_format"]]
    target.seek(0)
    target.truncate()
    with _opened(source) as container:
        if not container.streams.video:
            raise PermanentError("there is no picture in the video")
        with _made(target, job["output_format"]) as output:
            writer = _Writer(container, output, job, tell)
            writer.open(video_codec, audio_codec)
            writer.write(target)
    with _opened(target) as made:
        return _facts(made, target) | {"content_type": content_type}


class _Writer:
    """Decodes, filters and encodes, packet by packet."""

    def __init__(
        self,
        source: av.container.InputContainer,
        output: av.container.OutputContainer,
        job: Mapping[str, Any],
        tell: Tell,
    ) -> None:
        self._source, self._output, self._job, self._tell = source, output, job, tell
        self._in_video = source.streams.video[0]
        self._in_audio = next(filter(_is_known, source.streams.audio), None)
        self._graph: Callable[[VideoFrame | None], Iterator[VideoFrame]] | None = None
        self._told = 0.0
        self._ends = time.monotonic() + job["max_seconds"]

    def open(self, video_codec: str, audio_codec: str) -> None:
        frame = next(iter(self._source.decode(self._in_video)), None)
        if frame is None:
            raise PermanentError("there is no picture in the video")
        self._source.seek(0)
        rotation = _rotation(frame)
        shown = (frame.height, frame.width) if rotation in (90, 270) else (frame.width, frame.height)
        fits = within(shown, self._job["max_width"], self._job["max_height"])
        # Both codecs halve the colours' resolution: sides are even.
        size = (max(2, fits[0] // 2 * 2), max(2, fits[1] // 2 * 2))
        rate = min(self._in_video.average_rate or Fraction(25), Fraction(self._job["max_frame_rate"]))
        video: Any = self._output.add_stream(video_codec, rate=rate)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        # A quality that pleases, and the bitrate as its limit: a still scene takes less.
        limit = self._job["video_bitrate"]
        if video_codec == "libx264":
            video.options = {"preset": "veryfast", "crf": "23", "maxrate": str(limit), "bufsize": str(2 * limit)}
        else:
            video.bit_rate = limit
            video.options = {"deadline": "realtime", "cpu-used": "6", "crf": "33"}
        video.codec_context.thread_count = 1
        self._video = video
        self._filters = (rotation, size, rate)
        self._audio: Any = None
        if self._in_audio is not None:
            self._audio = self._output.add_stream(audio_codec, rate=AUDIO_RATE)
            self._audio.bit_rate = self._job["audio_bitrate"]
            self._audio.layout = "stereo"
            self._resampler = av.AudioResampler(self._audio.format.name, "stereo", AUDIO_RATE)

    def write(self, target: BinaryIO) -> None:
        streams = [self._in_video] + ([self._in_audio] if self._in_audio is not None else [])
        for packet in self._source.demux(streams):
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    self._told_of(frame.time or 0.0)
                    self._pictures(frame, target)
                else:
                    self._sound(frame)
            self._check(target)
        self._pictures(None, target)
        if self._audio is not None:
            self._sound(None)
        for stream in (self._video, self._audio):
            if stream is not None:
                self._output.mux(stream.encode(None))

    def _pictures(self, frame: VideoFrame | None, target: BinaryIO) -> None:
        if self._graph is None:
            if frame is None:
                return
            self._graph = _graph(frame, self._in_video.time_base, *self._filters)
        for made in self._graph(frame):
            made.pict_type = 0
            self._output.mux(self._video.encode(made))
            # A gap in the times of a video is filled with the picture before it, a million times perhaps.
            self._check(target)

    def _sound(self, frame: Any) -> None:
        for made in self._resampler.resample(frame):
            self._output.mux(self._audio.encode(made))

    def _told_of(self, at: float) -> None:
        duration = _duration(self._source)
        if duration and at / duration >= self._told + 0.02:
            self._told = min(1.0, at / duration)
            self._tell({"share": self._told})

    def _check(self, target: BinaryIO) -> None:
        if os.fstat(target.fileno()).st_size > self._job["max_size"]:
            raise PermanentError(
                f"the result has more than {self._job['max_size']:,} bytes (ARQD_MEDIA__MAX_VIDEO_RESULT): "
                "ask for a lower bitrate"
            )
        if time.monotonic() > self._ends:
            raise PermanentError("the video takes longer to write than a job may run")


def _graph(
    frame: VideoFrame, time_base: Fraction | None, rotation: int, size: Size, rate: Fraction
) -> Callable[[VideoFrame | None], Iterator[VideoFrame]]:
    """Give what turns, scales and thins out frames; None ends it."""
    graph = Graph()
    turns = {90: [("transpose", "2")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "1")]}
    steps = [
        *turns.get(rotation, []),
        ("scale", f"{size[0]}:{size[1]}"),
        ("setsar", "1"),
        ("fps", f"{rate.numerator}/{rate.denominator}"),
        ("format", "yuv420p"),
    ]
    nodes: list[Any] = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=time_base or Fraction(1, 1000)
        )
    ]
    nodes += [graph.add(name, words) if words else graph.add(name) for name, words in steps]
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()

    def through(frame: VideoFrame | None) -> Iterator[VideoFrame]:
        # By the graph, which must live as long as its filters do: they do not keep it.
        graph.push(frame)
        while True:
            try:
                yield graph.pull()  # type: ignore[misc]
            except (av.BlockingIOError, av.EOFError):
                return

    return through


@contextmanager
def _opened(file: BinaryIO) -> Iterator[av.container.InputContainer]:
    file.seek(0)
    try:
        with av.open(file, "r", options={"format_whitelist": FORMATS, **PROBE}, **_ANY_TEXT) as container:
            for stream in container.streams.video:
                if not _is_known(stream):
                    raise PermanentError("the video cannot be read: its codec is not known here")
                if stream.width * stream.height > MOST_PIXELS:
                    raise PermanentError(f"the video is {stream.width}x{stream.height}: too large")
                stream.codec_context.thread_count = 1
            yield container
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise PermanentError(f"the video cannot be read: {str(error)[:200]}") from error


def _is_known(stream: Any) -> bool:
    """Whether FFmpeg knows the codec of a stream; one of another has no context."""
    return stream.codec_context is not None


@contextmanager
def _made(target: BinaryIO, format: str) -> Iterator[av.container.OutputContainer]:
    """Open a file for writing; of MP4 the index is put to its beginning, so that it can be shown while it comes."""

    def again(*_: Any) -> BinaryIO:
        # FFmpeg moves what it has written and reads it by another way: the file has no name to open it by.
        return open(f"/proc/self/fd/{target.fileno()}", "rb", buffering=0)  # FFmpeg closes it

    fast = format == "mp4" and sys.platform == "linux"
    with (
        os.fdopen(os.dup(target.fileno()), "r+b", buffering=0) as plain,
        av.open(
            plain,
            "w",
            format=format,
            options={"movflags": "+faststart"} if fast else {},
            io_open=again if fast else None,
        ) as output,
    ):
        yield output


def _facts(container: av.container.InputContainer, file: BinaryIO) -> Facts:
    video = container.streams.video[0] if container.streams.video else None
    audio = container.streams.audio[0] if container.streams.audio else None
    if video is None and audio is None:
        raise PermanentError("there is neither picture nor sound in it")
    rotation, size = 0, (None, None)
    if video is not None:
        frame = next(iter(container.decode(video)), None)
        rotation = _rotation(frame) if frame is not None else 0
        turned = rotation in (90, 270)
        size = (video.height, video.width) if turned else (video.width, video.height)  # type: ignore[assignment]
    whole = file.seek(0, 2)
    duration = _duration(container)
    return {
        "format": container.format.name,
        "duration": None if duration is None else round(duration, 3),
        "width": size[0],
        "height": size[1],
        "frame_rate": round(float(video.average_rate), 3) if video and video.average_rate else None,
        "rotation": rotation,
        "bitrate": int(8 * whole / duration) if duration else None,
        "video": video.codec_context.name if video else None,
        "audio": audio.codec_context.name if audio and _is_known(audio) else None,
        "size": whole,
    }


def _duration(container: av.container.InputContainer) -> float | None:
    return container.duration / av.time_base if container.duration else None


def _rotation(frame: VideoFrame) -> int:
    """Give how far a frame is to be turned counter-clockwise."""
    return int(getattr(frame, "rotation", 0) or 0) % 360 // 90 * 90


def _frame_at(container: av.container.InputContainer, at: float) -> tuple[VideoFrame, float]:
    """Give the first frame from a time on, the last one before it where there is none."""
    if not container.streams.video:
        raise PermanentError("there is no picture in the video")
    if at > 0:
        container.seek(int(at * av.time_base))
    found: VideoFrame | None = None
    for frame in container.decode(container.streams.video[0]):
        found = frame
        if (frame.time or 0.0) >= at:
            break
    if found is None:
        raise PermanentError("there is no picture in the video at that time")
    return found, found.time or 0.0
