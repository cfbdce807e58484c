"""What the media family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Discriminator, Field, Tag, model_validator

from daemon.payload import Payload, PayloadModel

__all__ = [
    "ProcessImage",
    "ProcessVideo",
    "ProcessedImage",
    "ProcessedVideo",
    "Transformation",
]

#: Longest side of a picture that is made, pixels; WebP has no larger ones.
LARGEST = 16_383
MOST_STEPS = 50

Side = Annotated[int, Field(ge=1, le=LARGEST)]
Quality = Annotated[int, Field(ge=1, le=100)]
Fit = Literal["cover", "contain", "fill", "inside", "outside"]
#: Where in the frame: a side, a corner or the middle.
Position = Literal["center", "top", "right", "bottom", "left", "top-left", "top-right", "bottom-left", "bottom-right"]
Colour = Annotated[str, Field(pattern=r"^#([0-9a-fA-F]{6}|[0-9a-fA-F]{8})$")]
ImageFormat = Literal["jpeg", "png", "webp", "avif"]


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("a source's URL is https://host/path, without user and password")
    return text


Url = Annotated[str, AfterValidator(_url), Field(max_length=4000)]
Path = Annotated[str, Field(min_length=1, max_length=4096)]
Key = Annotated[str, Field(min_length=1, max_length=1024)]


class _Source(PayloadModel):
    """Where a file comes from: exactly one of the three."""

    url: Url | None = None
    path: Path | None = None
    key: Key | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(given is not None for given in (self.url, self.path, self.key)) != 1:
            raise ValueError("give one source: a url, a path or the key of an object")
        return self


class Resize(PayloadModel):
    """Resize as sharp does: ``cover`` crops what does not fit, ``contain`` adds borders, ``fill`` stretches; ``inside``
    and ``outside`` keep the proportions and make it as large as fits, or as small as covers. One side alone gives the
    other by the proportions."""

    type: Literal["resize"] = "resize"
    width: Side | None = None
    height: Side | None = None
    fit: Fit = "cover"
    position: Position = "center"
    background: Colour = "#000000"
    without_enlargement: bool = False

    @model_validator(mode="after")
    def _a_size(self) -> Self:
        if self.width is None and self.height is None:
            raise ValueError("resize needs a width, a height or both")
        return self


class Thumbnail(PayloadModel):
    """Make it smaller until it fits into a box, with its proportions; never larger."""

    type: Literal["thumbnail"] = "thumbnail"
    width: Side = 200
    height: Side = 200


class Crop(PayloadModel):
    """Cut out a rectangle, which must lie inside."""

    type: Literal["crop"] = "crop"
    left: int = Field(0, ge=0, le=1_000_000)
    top: int = Field(0, ge=0, le=1_000_000)
    width: Side
    height: Side


class Rotate(PayloadModel):
    """Turn it clockwise, degrees; a corner that becomes free shows the background."""

    type: Literal["rotate"] = "rotate"
    angle: float = Field(ge=-3600, le=3600)
    background: Colour = "#000000"


class Blur(PayloadModel):
    """Blur by a Gaussian of this standard deviation, pixels."""

    type: Literal["blur"] = "blur"
    sigma: float = Field(1.0, ge=0.3, le=1000)


class Sharpen(PayloadModel):
    """Sharpen edges: how wide (standard deviation, pixels) and how much (percent)."""

    type: Literal["sharpen"] = "sharpen"
    sigma: float = Field(1.0, ge=0.1, le=10)
    amount: int = Field(100, ge=1, le=500)


class Grayscale(PayloadModel):
    """Take the colours away."""

    type: Literal["grayscale"] = "grayscale"


class Watermark(PayloadModel):
    """Put a text or another picture on it.

    Attributes:
        text: one line; or
        key, path: of a picture.
        width: of the mark, share of the frame's width.
        margin: to the frame's edges, share of its shorter side.
    """

    type: Literal["watermark"] = "watermark"
    text: str | None = Field(None, min_length=1, max_length=200)
    key: Key | None = None
    path: Path | None = None
    position: Position = "bottom-right"
    opacity: float = Field(0.5, gt=0, le=1)
    width: float = Field(0.25, gt=0, le=1)
    margin: float = Field(0.02, ge=0, le=0.5)
    colour: Colour = Field("#ffffff", validation_alias=AliasChoices("colour", "color"))

    @model_validator(mode="after")
    def _one_mark(self) -> Self:
        if sum(given is not None for given in (self.text, self.key, self.path)) != 1:
            raise ValueError("a watermark has a text, or a picture by key or path")
        if self.text is not None and not self.text.isprintable():
            raise ValueError("a watermark's text is one line")
        return self


class Encoder(PayloadModel):
    """How the result is written; the last one counts.

    Attributes:
        quality: of jpeg, webp (default 80) and avif (default 50); png with one below 100 gets a palette.
    """

    type: ImageFormat
    quality: Quality | None = None


def _flat(value: Any) -> Any:
    """Take ``{"type": "resize", "options": {…}}`` as well."""
    if isinstance(value, dict) and isinstance(options := value.get("options"), dict):
        return {**options, **{name: given for name, given in value.items() if name != "options"}}
    return value


def _tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "encoder" if kind in ("jpeg", "png", "webp", "avif") else str(kind)


Transformation = Annotated[
    Annotated[Resize, Tag("resize")]
    | Annotated[Thumbnail, Tag("thumbnail")]
    | Annotated[Crop, Tag("crop")]
    | Annotated[Rotate, Tag("rotate")]
    | Annotated[Blur, Tag("blur")]
    | Annotated[Sharpen, Tag("sharpen")]
    | Annotated[Grayscale, Tag("grayscale")]
    | Annotated[Watermark, Tag("watermark")]
    | Annotated[Encoder, Tag("encoder")],
    Discriminator(
        _tag,
        custom_error_type="transformation",
        custom_error_message="a transformation is resize, thumbnail, crop, rotate, blur, sharpen, grayscale, "
        "watermark, jpeg, png, webp or avif",
    ),
    BeforeValidator(_flat),
]


class ProcessedImage(PayloadModel):
    """What was made.

    Attributes:
        url: where it can be read: a link of the object store, or the file's.
        target: key of the object, or path.
        format: ``jpeg``, ``png``, ``webp``, ``avif``.
        frames: 1, or more of an animation.
        size: bytes.
    """

    url: str
    target: str
    format: ImageFormat
    content_type: str
    width: int
    height: int
    frames: int
    size: int


class ProcessImage(_Source, Payload, family="media", function="process_image", priority=5, returns=ProcessedImage):
    """Read a picture, transform it, and write it to the object store or into a folder.

    Attributes:
        url, path, key: where it comes from: the web, a file in a folder the operator allows, or the object store.
        user_id: whose it is; arqd only keeps it with the job.
        transformations: made in this order.
        output_format: default the last encoder's among the transformations, else the source's.
        quality: where the encoder has none.
        max_width, max_height: the result is made smaller until it fits, never larger.
        target: key of an object, or an absolute path in a folder the operator allows; default a key of the job's own.
        delete_source: remove the source once the result is written; not of a URL.
    """

    path: Path | None = Field(None, validation_alias=AliasChoices("path", "originalPath", "original_path", "filePath"))
    user_id: str | None = Field(None, max_length=200)
    transformations: tuple[Transformation, ...] = Field((), max_length=MOST_STEPS)
    output_format: ImageFormat | None = None
    quality: Quality | None = None
    max_width: Side | None = None
    max_height: Side | None = None
    target: str | None = Field(
        None, min_length=1, max_length=4096, validation_alias=AliasChoices("target", "targetPath", "target_path")
    )
    delete_source: bool = False

    @model_validator(mode="after")
    def _deletable(self) -> Self:
        if self.delete_source and self.url is not None:
            raise ValueError("delete_source is for a path or a key: a URL is not ours to delete")
        return self


class VideoStill(PayloadModel):
    """A picture taken from a video: its object's key, and the time it shows, seconds."""

    target: str
    url: str
    at: float
    width: int
    height: int


class VideoFacts(PayloadModel):
    """What a video is.

    Attributes:
        duration: seconds, None where it is not told.
        width, height: as it is shown: turned where the file says so.
        bitrate: of the whole file, bits a second.
        video, audio: names of the codecs.
    """

    format: str
    duration: float | None
    width: int | None
    height: int | None
    frame_rate: float | None
    rotation: int
    bitrate: int | None
    video: str | None
    audio: str | None
    size: int


class ProcessedVideo(PayloadModel):
    """What a video is and what was made of it."""

    source: VideoFacts
    url: str | None = None
    target: str | None = None
    result: VideoFacts | None = None
    poster: VideoStill | None = None
    thumbnails: tuple[VideoStill, ...] = ()


class ProcessVideo(_Source, Payload, family="media", function="process_video", priority=5, returns=ProcessedVideo):
    """Look at a video, take pictures from it, and write it anew.

    Attributes:
        url, path, key: where it comes from.
        output_format: ``mp4`` (H.264 and AAC) or ``webm`` (VP9 and Opus); None: it is not written anew.
        max_width, max_height: the result is made smaller until it fits, never larger.
        video_bitrate, audio_bitrate: most bits a second.
        max_frame_rate: more frames a second than this are dropped.
        poster: take a picture, at ``poster_at`` seconds (default a tenth of the way).
        thumbnails: how many pictures to take at even distances; none is larger than ``thumbnail_width``.
        target: key of the object; pictures are put beside it.
    """

    user_id: str | None = Field(None, max_length=200)
    output_format: Literal["mp4", "webm"] | None = None
    max_width: Side = 1920
    max_height: Side = 1920
    video_bitrate: int = Field(4_000_000, ge=50_000, le=100_000_000)
    audio_bitrate: int = Field(128_000, ge=16_000, le=512_000)
    max_frame_rate: int = Field(60, ge=1, le=120)
    poster: bool = True
    poster_at: float | None = Field(None, ge=0)
    thumbnails: int = Field(0, ge=0, le=20)
    thumbnail_width: Side = 320
    target: Key | None = Field(None, validation_alias=AliasChoices("target", "targetPath", "target_path"))
    delete_source: bool = False

    @model_validator(mode="after")
    def _deletable(self) -> Self:
        if self.delete_source and self.url is not None:
            raise ValueError("delete_source is for a path or a key: a URL is not ours to delete")
        return self
