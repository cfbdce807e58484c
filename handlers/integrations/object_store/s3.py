"""An object store in a bucket that speaks S3: AWS, MinIO, Ceph, R2, ``rclone serve s3`` …"""

from __future__ import annotations

import asyncio
import hashlib
import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from daemon.errors import ConfigurationError
from handlers.integrations.http import HttpClient, HttpReply, HttpUnavailable
from handlers.integrations.http_settings import HttpSettings
from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.integrations.object_store.sigv4 import Signer, encoded
from handlers.integrations.object_store.store import (
    PART,
    Content,
    ObjectConflict,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    ObjectStream,
    StoreRefused,
    StoreUnavailable,
    checked_key,
    guessed_type,
    pieces,
)

#: Waits before a call is made again that may be made twice, seconds.
WAITS = (0.2, 1.0)
NO_LIMIT = 2**62
#: An upload has 10,000 parts at most: after so many each gets a piece more, which makes room for 440 GB.
GROW_EVERY = 1000
#: Told with a 400, and heals all the same: a part that was too long on its way.
_LATE = "RequestTimeout"
_OWNER = "x-amz-meta-arqd-owner"
#: What stays as it is in an owner: all that ids usually have.
_PLAIN = "{}:@/+=, "


class S3Store(ObjectStore):
    """Keeps objects in a bucket.

    A conditional write needs a store that knows ``If-None-Match`` and ``If-Match`` of PUT, as AWS does; one that does
    not know them writes all the same.

    Args:
        bucket: its name.
        prefix: put before every key.
        endpoint: URL of the service; None: AWS.
        region: where the bucket is.

    Raises:
        ConfigurationError: the endpoint is no URL.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        endpoint: str | None,
        region: str,
        options: ObjectStoreSettings,
        http: HttpSettings | None = None,
    ) -> None:
        url = endpoint or f"https://{bucket}.s3.{region}.amazonaws.com"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise ConfigurationError(f"ARQD_OBJECT_STORE_URL: the endpoint {endpoint!r} is no http or https URL")
        assert options.access_key is not None
        assert options.secret_key is not None
        self.bucket = bucket
        self._options = options
        self.link_lifetime: float = options.link_lifetime
        self._url = f"{parts.scheme}://{parts.netloc}"
        # AWS has a host for each bucket; elsewhere the bucket stands in the path.
        base = [parts.path.strip("/"), bucket if endpoint else "", prefix]
        self._base = "".join(f"/{quote(part, safe='/~')}" for part in base if part)
        token = None if options.session_token is None else options.session_token.get_secret_value()
        self._signer = Signer(options.access_key, options.secret_key.get_secret_value(), region, token)
        settings = (http or HttpSettings()).model_copy(update={"timeout": options.timeout})
        # The operator names the store: it may well be in this network.
        self._http = HttpClient(settings, guarded=False, keep_alive=True)

    async def put(
        self,
        key: str,
        content: Content,
        *,
        content_type: str | None = None,
        owner: str | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        headers = {"content-type": content_type or guessed_type(key)}
        if owner is not None:
            # A header is ASCII.
            headers[_OWNER] = quote(owner, safe=_PLAIN)
        condition = {"if-none-match": "*"} if if_absent else {"if-match": f'"{if_match}"'} if if_match else {}
        parts = pieces(content, PART)
        first = await anext(parts)
        second = await anext(parts, None)
        if second is not None:
            await self._put_parts(key, _chained(first, second, parts), headers, condition)
            # What was said about the parts need not be what is said about the object: rclone has another etag for it.
            if (found := await self.head(key)) is None:
                raise ObjectMissing(f"{key} was written and is gone again")
            return found
        reply = await self._call("PUT", key, headers={**headers, **condition}, body=first)
        return ObjectInfo(
            key=key,
            size=len(first),
            etag=reply.headers.get("etag", "").strip('"'),
            content_type=headers["content-type"],
            owner=owner,
        )

    @asynccontextmanager
    async def get(self, key: str) -> AsyncIterator[ObjectStream]:
        """See `ObjectStore.get`."""
        url, headers = self._signed("GET", key, {}, {"accept-encoding": "identity"}, hashlib.sha256().hexdigest())
        try:
            async with self._http.stream("GET", url, headers=headers, max_body=NO_LIMIT) as stream:
                if not stream.reply.ok:
                    body = b"".join([chunk async for chunk in stream.chunks()])
                    reply = stream.reply
                    self._refuse(replace(reply, body=body), key)
                yield ObjectStream(_info(key, stream.reply.headers), stream.chunks())
        except HttpUnavailable as error:
            raise StoreUnavailable(f"the object store: {error}") from error

    async def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.head`."""
        try:
            return _info(key, (await self._call("HEAD", key)).headers)
        except ObjectMissing:
            return None

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with suppress(ObjectMissing):
            await self._call("DELETE", key)

    async def link(self, key: str, lifetime: float | None = None) -> str:
        """See `ObjectStore.link`: presigned."""
        base = self._options.public_url or self._url
        parts = urlsplit(base)
        lasts = int(min(lifetime or self.link_lifetime, 7 * 86_400))
        signed = self._signer.link(parts.netloc, parts.path + self._path(key), max(1, lasts), datetime.now(UTC))
        return f"{parts.scheme}://{parts.netloc}{signed}"

    async def check(self) -> str:
        """See `ObjectStore.check`."""
        # Not with HEAD, whose answer has no body to say that it is the bucket that is missing.
        with suppress(ObjectMissing):
            await self._call("GET", "arqd-check")
        return f"the bucket {self.bucket} at {urlsplit(self._url).netloc}"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    # ------------------------------------------------------------------ in parts

    async def _put_parts(
        self, key: str, parts: AsyncIterator[bytes], headers: Mapping[str, str], condition: Mapping[str, str]
    ) -> None:
        begun = await self._call("POST", key, query={"uploads": ""}, headers=headers)
        upload = {"uploadId": _element("UploadId", begun.text)}
        etags = list[str]()
        try:
            async for part in _growing(parts):
                query = {**upload, "partNumber": str(len(etags) + 1)}
                reply = await self._call("PUT", key, query=query, body=part)
                etags.append(reply.headers.get("etag", ""))
            listed = "".join(
                f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(etag)}</ETag></Part>"
                for number, etag in enumerate(etags, 1)
            )
            body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
            ended = await self._call("POST", key, query=upload, headers=condition, body=body)
            if "<Error>" in ended.text:
                # Said with a status of 200, since the store begins to answer before it is done.
                raise StoreUnavailable(f"the object store could not put {key} together: {_element('Code', ended.text)}")
        except BaseException:
            # Else the store keeps, and charges for, what has come.
            await asyncio.shield(self._forget(key, upload))
            raise

    async def _forget(self, key: str, upload: Mapping[str, str]) -> None:
        with suppress(ObjectMissing, StoreRefused, StoreUnavailable):
            await self._call("DELETE", key, query=upload)

    # ------------------------------------------------------------------ one call

    async def _call(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> HttpReply:
        """Make a call; one that may be made twice is made again when the store is in trouble."""
        digest = (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
        given = headers or {}
        twice = method != "POST" and not given.keys() & {"if-match", "if-none-match"}
        waits = iter(WAITS if twice else ())
        while True:
            url, signed = self._signed(method, key, query or {}, given, digest)
            try:
                # What HEAD tells is the size of a body that does not come.
                limit = NO_LIMIT if method == "HEAD" else None
                reply = await self._http.request(method, url, headers=signed, content=body or None, max_body=limit)
                if reply.ok:
                    return reply
                self._refuse(reply, key)
            except (HttpUnavailable, StoreUnavailable) as error:
                wait = next(waits, None)
                if wait is None:
                    raise StoreUnavailable(str(error).removeprefix("the object store: ")) from error
                await asyncio.sleep(wait)

    def _path(self, key: str) -> str:
        return f"{self._base}/{quote(checked_key(key), safe='/~')}"

    def _signed(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], digest: str
    ) -> tuple[str, dict[str, str]]:
        path, host = self._path(key), urlsplit(self._url).netloc
        signed = self._signer.headers(method, host, path, query, headers, digest, datetime.now(UTC))
        return f"{self._url}{path}" + (f"?{encoded(query)}" if query else ""), signed

    def _refuse(self, reply: HttpReply, key: str) -> Any:
        """Raise what an answer other than 2xx means."""
        code = _element("Code", reply.text) or str(reply.status)
        if reply.status == 404 and code in ("404", "NoSuchKey", "NoSuchUpload"):
            raise ObjectMissing(f"there is no object {key}")
        if reply.status == 412:
            raise ObjectConflict(f"{key} was written by somebody else")
        if reply.status in (408, 409, 429) or reply.status >= 500 or code == _LATE:
            raise StoreUnavailable(f"the object store answers {code} for {key}")
        raise StoreRefused(f"the object store answers {code} for {key} in the bucket {self.bucket}")


def _info(key: str, headers: Mapping[str, str]) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=int(headers.get("content-length") or 0),
        etag=headers.get("etag", "").strip('"'),
        content_type=headers.get("content-type") or guessed_type(key),
        owner=None if (owner := headers.get(_OWNER)) is None else unquote(owner),
    )


def _element(name: str, text: str) -> str:
    """Give the text of an XML element that stands once and has no attributes."""
    found = re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found[1] if found else ""


async def _chained(first: bytes, second: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for piece in others:
        yield piece


async def _growing(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Make parts of more and more pieces: at one each, ten thousand parts would be 80 GB."""
    number, held = 0, list[bytes]()
    async for piece in pieces:
        held.append(piece)
        if len(held) > number // GROW_EVERY:
            yield b"".join(held)
            number, held = number + 1, []
    if held:
        yield b"".join(held)
