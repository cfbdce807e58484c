"""Pictures through a real worker: from each source to each target, and what is left when one is ended."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from daemon.errors import JobFailed
from daemon.family import Family
from daemon.job import JobState
from daemon.producer import Producer
from daemon.testing.handlers import run_handler
from handlers.integrations import folders
from handlers.integrations.folders import PathForbidden
from handlers.integrations.object_store.opening import open_store
from handlers.media.payloads import ProcessedImage, ProcessImage
from handlers.media.results import own_key
from handlers.media.tasks import process_image
from handlers.media.worker import WorkerSettings, close_media, open_media
from tests.engine import in_state, run_burst, until, working
from tests.handlers.media.conftest import family_with
from tests.handlers.media.pictures import oriented, photograph, written
from tests.handlers.receiver import Answer, Receiver

AVATAR = {
    "transformations": [
        {"type": "resize", "options": {"width": 200, "height": 200, "fit": "cover"}},
        {"type": "webp", "options": {"quality": 85}},
    ],
    "outputFormat": "webp",
    "quality": 85,
}


def stored(tmp_path: Path, key: str) -> Image.Image:
    picture = Image.open(io.BytesIO((tmp_path / "objects" / key).read_bytes()))
    picture.load()
    return picture


def working_processes() -> list[int]:
    """The processes of jobs that this one has."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            with contextlib.suppress(OSError):
                if b"process_child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


async def test_the_seeds_avatar_from_the_web(
    redis_url: str, producer: Producer, family: Family, tmp_path: Path
) -> None:
    async with Receiver(Answer(503), Answer(200, oriented(6, 800, 600))) as web:
        job = await producer.enqueue("process_image", {"url": f"{web.url}/a.jpg", **AVATAR}, family="media")
        await run_burst(redis_url, family)
        result = ProcessedImage.model_validate(await job.result(30))
    assert (result.format, result.width, result.height, result.frames) == ("webp", 200, 200, 1)
    picture = stored(tmp_path, result.target)
    assert (picture.format, picture.size) == ("WEBP", (200, 200))
    assert result.url == (tmp_path / "objects" / result.target).as_uri()
    assert (await job.info()).progress == 100
    assert list((tmp_path / "temp").iterdir()) == []


async def test_the_seeds_file_to_a_target(redis_url: str, producer: Producer, family: Family, tmp_path: Path) -> None:
    (tmp_path / "in" / "photo.jpg").write_bytes(written(photograph(800, 600)))
    fields = {"userId": "7", "originalPath": "photo.jpg", "maxWidth": 400, "maxHeight": 400, "quality": 70}
    target = tmp_path / "out" / "deep" / "photo.jpg"
    job = await producer.enqueue(
        "process_image", {**fields, "targetPath": str(target), "deleteSource": True}, family="media"
    )
    await run_burst(redis_url, family)
    result = await job.result(30)
    assert (result["target"], result["url"]) == (str(target), target.as_uri())
    assert Image.open(target).size == (400, 300)
    assert list((tmp_path / "in").iterdir()) == []
    assert [path.name for path in target.parent.iterdir()] == ["photo.jpg"]


async def test_objects_and_progress(settings: SimpleNamespace, tmp_path: Path) -> None:
    ctx: dict[Any, Any] = {"settings": settings}
    await open_media(ctx)
    try:
        store = ctx["store"]
        await store.put("up/a.png", written(photograph(), "PNG"))
        await store.put("up/mark.png", written(Image.new("RGBA", (9, 9), "red"), "PNG"))
        mark = {"type": "watermark", "key": "up/mark.png"}
        job = ProcessImage.model_validate(
            {"key": "up/a.png", "transformations": [mark], "target": "done/a.avif", "output_format": "avif"}
        )
        run = await run_handler(process_image, job, settings=WorkerSettings, ctx=ctx)
        assert [percent for percent, _ in run.progress] == [10, 50, 70, 90, 100]
        found = await store.head("done/a.avif")
        assert (found.content_type, found.size) == ("image/avif", run.value().size)
        assert await store.head("up/a.png") is not None, "the source stays"
        # It was done, and its worker died before that was recorded: nothing is done twice, and the source may be gone.
        again = job.model_copy(update={"delete_source": True})
        await store.delete("up/a.png")
        second = await run_handler(
            process_image, again, settings=WorkerSettings, ctx=ctx, tries=1, receipts=run.receipts
        )
        assert second.value() == run.value()
    finally:
        await close_media(ctx)


@pytest.mark.parametrize("does", ["read", "write", "remove"])
def test_a_folder_that_becomes_a_link_after_it_was_looked_at_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    inside, outside = tmp_path / "in" / "user", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "a").write_text(folder.name)
    look = folders.confined

    def looked_at(path: str, *given: Any) -> Path:
        found = look(path, *given)
        inside.rename(tmp_path / "in" / "before")
        inside.symlink_to(outside)
        return found

    monkeypatch.setattr(folders, "confined", looked_at)
    given = ("user/a", [tmp_path / "in"], "ARQD_MEDIA__SOURCE_DIRS")
    work = {
        "read": lambda: folders.open_confined(*given, 100),
        "write": lambda: folders.write_confined(*given, io.BytesIO(b"mine")),
        "remove": lambda: folders.remove_confined(*given),
    }
    with pytest.raises(PathForbidden, match="through a link"):
        work[does]()
    assert (outside / "a").read_text() == "out"
    assert [each.name for each in outside.iterdir()] == ["a"]


@pytest.mark.parametrize("fields", [{"key": "up/a.png"}, {"path": "a.png"}])
async def test_a_result_that_takes_its_sources_place_is_not_deleted_with_it(
    settings: SimpleNamespace, tmp_path: Path, fields: dict[str, str]
) -> None:
    """Else the only copy that is left would go: the source is replaced already."""
    folder = tmp_path / "in"
    settings.media = settings.media.model_copy(update={"target_dirs": (folder,)})
    (folder / "a.png").write_bytes(written(photograph(), "PNG"))
    ctx: dict[Any, Any] = {"settings": settings}
    await open_media(ctx)
    try:
        await ctx["store"].put("up/a.png", written(photograph(), "PNG"))
        target = fields.get("key") or f"{folder}/../in/a.png"
        small = {"type": "thumbnail", "width": 20, "height": 20}
        job = ProcessImage.model_validate(
            {**fields, "target": target, "transformations": [small], "delete_source": True}
        )
        run = await run_handler(process_image, job, settings=WorkerSettings, ctx=ctx)
        made = stored(tmp_path, "up/a.png") if "key" in fields else Image.open(folder / "a.png")
        assert max(made.size) == 20 == max(run.value().width, run.value().height)
    finally:
        await close_media(ctx)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"path": "/etc/passwd"}, "not inside an allowed folder .ARQD_MEDIA__SOURCE_DIRS"),
        ({"path": "../out/x"}, "not inside an allowed folder"),
        ({"path": "away/passwd"}, "not inside an allowed folder"),
        ({"path": "a\0b"}, "not inside an allowed folder"),
        ({"path": "folder"}, "no plain file"),
        ({"path": "text.jpg"}, "this is no picture"),
        ({"path": "large.jpg"}, "the limit is"),
        ({"key": "../x"}, "an object's key"),
        ({"key": "nowhere"}, "there is no object nowhere"),
        ({"url": "http://10.0.0.1/a.jpg"}, "not on the public internet"),
        ({"path": "a.png", "target": "/etc/x.png"}, "not inside an allowed folder .ARQD_MEDIA__TARGET_DIRS"),
        ({"path": "a.png", "target": ".arqd/x"}, "an object's key"),
    ],
)
async def test_what_is_refused(settings: SimpleNamespace, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    source = tmp_path / "in"
    (source / "folder").mkdir()
    (source / "away").symlink_to("/etc")
    (source / "text.jpg").write_text("no picture")
    (source / "a.png").write_bytes(written(photograph(), "PNG"))
    with (source / "large.jpg").open("wb") as file:
        file.truncate(settings.media.max_image + 1)
    ctx: dict[Any, Any] = {"settings": settings}
    await open_media(ctx)
    try:
        run = await run_handler(process_image, ProcessImage.model_validate(fields), settings=WorkerSettings, ctx=ctx)
        assert (run.ending, run.reason) == ("failed", "permanent")
        with pytest.raises(Exception, match=told):
            run.value()
        assert list((tmp_path / "temp").iterdir()) == []
    finally:
        await close_media(ctx)


async def test_a_job_that_takes_too_long_is_ended_with_its_process(
    redis_url: str, producer: Producer, settings: SimpleNamespace, tmp_path: Path
) -> None:
    family = family_with(settings, job_timeout=1.5, max_tries=1)
    (tmp_path / "in" / "slow.png").write_bytes(written(Image.new("RGB", (6000, 6000)), "PNG"))
    slow = [{"type": "blur", "sigma": 900}] * 50
    (tmp_path / "in" / "quick.png").write_bytes(written(photograph(), "PNG"))
    async with working(redis_url, family):
        job = await producer.enqueue("process_image", {"path": "slow.png", "transformations": slow}, family="media")
        with pytest.raises(JobFailed, match="TimeoutError"):
            await job.result(40)
        await until(lambda: working_processes() == [])
        after = await producer.enqueue("process_image", {"path": "quick.png"}, family="media", timeout=40)
        assert (await after.result(40))["width"] == 160
    assert list((tmp_path / "temp").iterdir()) == []


async def test_an_aborted_job_takes_its_process_along(
    redis_url: str, producer: Producer, family: Family, tmp_path: Path
) -> None:
    (tmp_path / "in" / "slow.png").write_bytes(written(Image.new("RGB", (4000, 4000)), "PNG"))
    slow = [{"type": "blur", "sigma": 900}] * 50
    async with working(redis_url, family):
        job = await producer.enqueue("process_image", {"path": "slow.png", "transformations": slow}, family="media")

        async def begun() -> bool:
            return (await job.info()).progress == 10

        async with asyncio.timeout(60):
            while not await begun():
                await asyncio.sleep(0.02)
        await job.abort()
        await in_state(job, JobState.ABORTED)
        await until(lambda: working_processes() == [])
    assert list((tmp_path / "temp").iterdir()) == []


def test_payloads() -> None:
    whole = ProcessImage.model_validate({"url": "https://example.com/a.jpg", **AVATAR})
    assert ProcessImage.model_validate_json(whole.model_dump_json()) == whole
    for fields in (
        {},
        {"path": "a", "key": "b"},
        {"url": "file:///etc/passwd"},
        {"path": "a", "transformations": [{"type": "explode"}]},
        {"path": "a", "transformations": [{"type": "resize"}]},
        {"path": "a", "transformations": [{"type": "resize", "width": 0}]},
        {"path": "a", "transformations": [{"type": "resize", "width": 9, "heigth": 9}]},
        {"path": "a", "transformations": [{"type": "watermark", "text": "a", "key": "b"}]},
        {"path": "a", "output_format": "bmp"},
        {"url": "https://example.com/a", "delete_source": True},
    ):
        with pytest.raises(ValidationError):
            ProcessImage.model_validate(fields)


@pytest.mark.parametrize(
    ("job_id", "key"),
    [("{media}:0199", "media/0199.webp"), ("{media}:a/../b", "media/a-..-b-"), ("{media}:.x", "media/x-")],
)
def test_keys_of_results(job_id: str, key: str) -> None:
    assert own_key(job_id, "webp").startswith(key)


async def test_a_store_is_what_the_settings_name(settings: SimpleNamespace, tmp_path: Path) -> None:
    settings.object_store_url = (tmp_path / "elsewhere").as_uri()
    assert (await open_store(settings).check()) == str(tmp_path / "elsewhere")
