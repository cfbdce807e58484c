"""What every object store does: a folder, rclone's server and moto's."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from daemon.context import JobContext
from daemon.errors import ConfigurationError
from daemon.testing.handlers import run_handler
from handlers.integrations.http_settings import HttpSettings
from handlers.integrations.object_store.local import LocalStore
from handlers.integrations.object_store.opening import open_store
from handlers.integrations.object_store.s3 import S3Store
from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.integrations.object_store.store import (
    PART,
    InvalidKey,
    ObjectConflict,
    ObjectMissing,
    ObjectStore,
    ObjectTooLarge,
    StoreRefused,
    StoreUnavailable,
    checked_key,
    pieces,
)
from tests.handlers.receiver import Answer, Receiver
from tests.object_stores import S3Server


async def read(store: ObjectStore, key: str) -> bytes:
    async with store.get(key) as found:
        return b"".join([chunk async for chunk in found.chunks])


async def in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


#: An id as somebody may choose it.
OWNER = "{media}:reçus 100%2F/€"


@pytest.mark.parametrize("key", ["a.webp", "deep/er/é € + ~'(1).txt"])
async def test_an_object_from_its_birth_to_its_end(store: ObjectStore, key: str) -> None:
    assert await store.head(key) is None
    with pytest.raises(ObjectMissing, match="there is no object"):
        await read(store, key)
    written = await store.put(key, b"first", content_type="image/webp", owner=OWNER)
    found = await store.head(key)
    assert found is not None
    assert (found.size, found.owner, found.etag) == (5, OWNER, written.etag)
    assert await read(store, key) == b"first"
    again = await store.put(key, b"")
    assert again.etag != written.etag
    assert await read(store, key) == b""
    await store.delete(key)
    await store.delete(key)
    assert await store.head(key) is None


@pytest.mark.parametrize("size", [PART, PART + 1, 2 * PART + 77])
async def test_what_is_large_goes_in_parts(store: ObjectStore, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(content)
    written = await store.put("large/file", source, owner="me")
    await store.put("large/stream", in_pieces(content, 1_000_003))
    assert written.size == size
    assert await store.head("large/file") == written
    assert written.owner == "me"
    for key in ("large/file", "large/stream"):
        with (tmp_path / "target").open("w+b") as target:
            assert (await store.fetch(key, target, size)).size == size
            target.seek(0)
            assert hashlib.sha256(target.read()).digest() == hashlib.sha256(content).digest()
    with pytest.raises(ObjectTooLarge, match="more than"), (tmp_path / "target").open("wb") as target:
        await store.fetch("large/file", target, size - 1)


async def test_conditions(careful: ObjectStore) -> None:
    first = await careful.put("a", b"1", if_absent=True)
    with pytest.raises(ObjectConflict, match="somebody else"):
        await careful.put("a", b"2", if_absent=True)
    second = await careful.put("a", b"3", if_match=first.etag)
    with pytest.raises(ObjectConflict):
        await careful.put("a", b"4", if_match=first.etag)
    assert await read(careful, "a") == b"3"
    assert second.etag != first.etag


async def test_a_stream_that_breaks_off_leaves_nothing(store: ObjectStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(PART + 5)
        raise RuntimeError("cut off")

    await store.put("kept", b"old")
    for key in ("kept", "new"):
        with pytest.raises(RuntimeError, match="cut off"):
            await store.put(key, broken())
    assert await read(store, "kept") == b"old"
    assert await store.head("new") is None
    if isinstance(store, LocalStore):
        assert list((store.root / ".arqd" / "drafts").iterdir()) == []


async def write_report(ctx: JobContext, text: str) -> str:
    return (await ctx["store"].put_once(ctx, "report.txt", text.encode())).etag


async def test_a_retry_overwrites_nobody(careful: ObjectStore) -> None:
    """Four ways the second try of a job can find what it wants to write."""
    ctx = {"store": careful}
    first = await run_handler(write_report, ["mine"], ctx=ctx, job_id="a")
    assert first.ending == "completed"
    # The worker died before the result was recorded: what the first try has written stays.
    second = await run_handler(write_report, ["again"], ctx=ctx, job_id="a", tries=1, receipts=first.receipts)
    assert second.value() == first.value()
    assert await read(careful, "report.txt") == b"mine"
    # Another job may overwrite it ...
    other = await run_handler(write_report, ["theirs"], ctx=ctx, job_id="b")
    assert other.value() != first.value()
    # ... and then the first one's late try must not.
    late = await run_handler(write_report, ["mine"], ctx=ctx, job_id="a", tries=1, receipts=first.receipts)
    assert isinstance(late.error, ObjectConflict)
    assert late.reason == "permanent"
    assert await read(careful, "report.txt") == b"theirs"


async def test_links_need_no_keys(rclone: S3Server) -> None:
    store = rclone.store(prefix="links")
    await store.put("a b.txt", b"for all")
    link = await store.link("a b.txt", 60)
    assert rclone.secret_key not in link

    def fetched(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bytes(reply.read())

    assert await to_thread(fetched, link) == b"for all"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await to_thread(fetched, link.replace("a%20b", "a%20c"))
    public = rclone.settings.model_copy(update={"public_url": "https://files.example.com/s3"})
    assert (await rclone.store(settings=public).link("a")).startswith("https://files.example.com/s3/files/a?X-Amz-")
    await store.close()


async def test_links_to_a_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, ObjectStoreSettings())
    await store.put("a b.txt", b"1")
    assert await store.link("a b.txt") == (tmp_path / "a b.txt").as_uri()
    shown = LocalStore(tmp_path, ObjectStoreSettings(public_url="https://files.example.com/x/"))
    assert await shown.link("a b.txt") == "https://files.example.com/x/a%20b.txt"


async def test_wrong_keys_and_buckets_are_told(rclone: S3Server, tmp_path: Path) -> None:
    wrong = rclone.settings.model_copy(update={"secret_key": SecretStr("wrong" * 8)})
    for store in (rclone.store(settings=wrong), rclone.store(bucket="nowhere")):
        with pytest.raises(StoreRefused, match=r"answers (SignatureDoesNotMatch|NoSuchBucket) for a"):
            await store.put("a", b"1")
        with pytest.raises(StoreRefused):
            await store.check()
        await store.close()
    assert await rclone.store().check() == f"the bucket files at 127.0.0.1:{rclone.port}"


async def test_a_store_that_is_away_is_tried_again(tmp_path: Path) -> None:
    store = S3Server("rclone", tmp_path).store()
    for call in (store.put("a", b"1", if_absent=True), read(store, "a"), store.head("a")):
        with pytest.raises(StoreUnavailable):
            await call
    await store.close()


async def test_what_was_too_long_on_its_way_is_tried_again() -> None:
    """S3 says so with a 400."""
    late = Answer(400, b"<Error><Code>RequestTimeout</Code></Error>")
    async with Receiver(late) as server:
        settings = ObjectStoreSettings(access_key="a", secret_key=SecretStr("b"))
        store = S3Store("files", "", server.url, "us-east-1", settings, HttpSettings())
        await store.put("a", b"1")
        server.answers = [late]
        with pytest.raises(StoreUnavailable, match="answers RequestTimeout for a"):
            await store.put("a", b"1", if_absent=True)
        await store.close()


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".arqd/x", "a\\b", "a\nb", "x" * 241, "é/" * 600]
)
async def test_keys_that_are_none(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidKey, match="an object's key"):
        checked_key(key)


async def test_a_folder_is_not_left(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "objects"
    root.mkdir()
    (root / "way").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    store = LocalStore(root, ObjectStoreSettings())
    for key in ("way/secret", "file"):
        for call in (read(store, key), store.put(key, b"1"), store.head(key), store.delete(key), store.link(key)):
            with pytest.raises(InvalidKey, match="leads through a link"):
                await call
    assert (outside / "secret").read_text() == "x"


async def test_files_that_somebody_put_there(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    store = LocalStore(tmp_path, ObjectStoreSettings())
    found = await store.head("photo.jpg")
    assert found is not None
    assert (found.size, found.content_type, found.owner) == (3, "image/jpeg", None)
    assert await store.head("folder") is None
    await store.put("photo.jpg", b"abcd", owner="job")
    (tmp_path / "photo.jpg").write_bytes(b"by hand")
    changed = await store.head("photo.jpg")
    assert changed is not None
    assert changed.owner is None, "what was known of it is no longer so"
    for key in ("folder", "photo.jpg/x"):
        with pytest.raises(InvalidKey):
            await store.put(key, b"1")


@pytest.mark.parametrize("size", [1, 7, 8, 100])
async def test_pieces(size: int) -> None:
    for length in (0, 1, size, size + 1, 3 * size):
        content = os.urandom(length)
        for given in (content, in_pieces(content, 3)):
            found = [piece async for piece in pieces(given, size)]
            assert b"".join(found) == content
            assert [len(piece) for piece in found[:-1]] == [size] * (len(found) - 1)
            assert len(found) == max(1, -(-length // size))


def settings_for(url: str | None, **options: Any) -> SimpleNamespace:
    keys = {"access_key": "a", "secret_key": "b"} if options.pop("keys", True) else {}
    return SimpleNamespace(
        object_store_url=url, object_store=ObjectStoreSettings(**keys), http=HttpSettings(), var_dir=Path("var")
    )


def test_what_the_settings_name() -> None:
    assert isinstance(default := open_store(settings_for(None)), LocalStore)
    assert default.root == Path("var/objects").absolute()
    assert isinstance(folder := open_store(settings_for("file:///srv/my%20files")), LocalStore)
    assert folder.root == Path("/srv/my files")
    assert isinstance(open_store(settings_for("s3://shop/uploads?region=eu-west-3")), S3Store)
    for url in ("s3://", "http://x", "file:relative", "s3://b?endpont=x", "s3://key:secret@b", "file://host/x"):
        with pytest.raises(ConfigurationError, match="ARQD_OBJECT_STORE_URL is s3://"):
            open_store(settings_for(url))
    with pytest.raises(ConfigurationError, match="ACCESS_KEY and __SECRET_KEY are not set"):
        open_store(settings_for("s3://shop", keys=False))
    with pytest.raises(ConfigurationError, match="is no http or https URL"):
        open_store(settings_for("s3://shop?endpoint=minio:9000"))


async def test_aws_has_a_host_for_each_bucket() -> None:
    store = open_store(settings_for("s3://shop/up?region=eu-west-3"))
    assert (await store.link("a.txt")).startswith("https://shop.s3.eu-west-3.amazonaws.com/up/a.txt?X-Amz-Algorithm=")
    await store.close()
