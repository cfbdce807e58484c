"""What an operator can set about pictures and video. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ByteSize, ConfigDict, Field

from handlers.integrations.folders import Folders


class MediaSettings(BaseModel):
    """Pictures and video: where files may be, how large they may be, what a job may use."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source_dirs: Folders = Field((), description="folders from which sources may be read by path, `:` between them")
    target_dirs: Folders = Field((), description="folders into which results may be written by path, `:` between them")
    temp_dir: Path | None = Field(None, description="folder whose disk temporary files are on; default the system's")
    processes: int | None = Field(None, ge=1, le=256, description="processes that work; default one per core")
    memory: ByteSize = Field(
        ByteSize(1_000_000_000), ge=100_000_000, description="memory one job may use, bytes or `2GB`"
    )
    max_image: ByteSize = Field(ByteSize(50_000_000), ge=1000, description="largest picture, bytes or `25MB`")
    max_pixels: int = Field(
        100_000_000, ge=10_000, description="most pixels of a picture, those of an animation's frames added up"
    )
    max_video: ByteSize = Field(ByteSize(2_000_000_000), ge=1000, description="largest video, bytes or `500MB`")
    max_video_result: ByteSize = Field(
        ByteSize(2_000_000_000), ge=1000, description="largest video that is made, bytes or `500MB`"
    )
    video_memory: ByteSize = Field(
        ByteSize(2_000_000_000), ge=100_000_000, description="memory a job with a video may use, bytes or `2GB`"
    )
