"""Send sealed objects, whole or in part, in constant memory. An object never changes, because its name is its hash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.errors import KropotError
from kropot.logs import log
from kropot.serving.pools import in_pool
from kropot.serving.sending import cut_off, noticing_hang_up

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from typing import BinaryIO

    from starlette.types import Receive, Scope, Send

    from kropot.objects.store import ObjectStore

CHUNK: Final = 1 << 18
OBJECT_TYPE: Final = "application/octet-stream"

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
_WHOLE, _PART, _BEYOND = 200, 206, 416


class Extent(Struct, frozen=True, kw_only=True):
    """The bytes of an object from `start` up to `stop`, and the HTTP status of the answer."""

    start: int
    stop: int
    status: int


def extent_of(asked: str | None, size: int) -> Extent:
    """Return which bytes of an object of this size a Range header asks for. Pure.

    Anything but one valid range asks for the whole object. If-Range is not needed, because an object never changes.
    """
    found = None if asked is None else _RANGE.fullmatch(asked.strip())
    if found is None:
        return Extent(start=0, stop=size, status=_WHOLE)
    if found[3] is not None:
        length = min(int(found[3]), size)
        return Extent(start=size - length, stop=size, status=_PART if length else _BEYOND)
    start, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return Extent(start=0, stop=size, status=_WHOLE)
    if start >= size:
        return Extent(start=size, stop=size, status=_BEYOND)
    return Extent(start=start, stop=min(last + 1, size), status=_PART)


class ObjectSender:
    """Sends the objects of one storage."""

    def __init__(self, objects: ObjectStore, pool: Executor) -> None:
        """Read from this store, in the threads of `pool`."""
        self._objects = objects
        self._pool = pool

    async def send(self, scope: Scope, receive: Receive, send: Send, sha256: bytes) -> None:
        """Answer with an object. Raises: ObjectMissingError, StorageError, before anything is sent."""
        source, size = await in_pool(self._pool, self._opened, sha256)
        try:
            asked = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"range"), None)
            extent = extent_of(asked, size)
            headers = [
                (b"content-type", OBJECT_TYPE.encode()),
                (b"content-length", b"%d" % (extent.stop - extent.start)),
                (b"etag", b'"%s"' % sha256.hex().encode()),
                (b"accept-ranges", b"bytes"),
                (b"cache-control", b"private, no-store"),
                (b"x-content-type-options", b"nosniff"),
                (b"content-disposition", b"attachment"),
            ]
            if extent.status == _PART:
                headers.append((b"content-range", b"bytes %d-%d/%d" % (extent.start, extent.stop - 1, size)))
            elif extent.status == _BEYOND:
                headers.append((b"content-range", b"bytes */%d" % size))
            await send({"type": "http.response.start", "status": extent.status, "headers": headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            await self._send_bytes(scope, receive, send, source, extent)
        finally:
            await in_pool(self._pool, source.close)

    async def _send_bytes(self, scope: Scope, receive: Receive, send: Send, source: BinaryIO, extent: Extent) -> None:
        at = extent.start
        if at == extent.stop:
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            async with noticing_hang_up(receive) as gone:
                while at < extent.stop and not gone.done():
                    chunk = await in_pool(self._pool, _read_at, source, at, min(CHUNK, extent.stop - at))
                    if not chunk:
                        raise OSError("the object ends early")  # noqa: TRY301 -- one way for all of them
                    at += len(chunk)
                    await send({"type": "http.response.body", "body": chunk, "more_body": at < extent.stop})
        except (KropotError, OSError) as error:
            # The body stays shorter than announced, so the client sees that it is incomplete.
            log.warning("object_broken", reason=type(error).__name__)
            cut_off(scope)

    def _opened(self, sha256: bytes) -> tuple[BinaryIO, int]:
        """Return an object and its size in bytes. Raises: ObjectMissingError, StorageError."""
        source = self._objects.open(sha256)
        return source, source.seek(0, 2)


def _read_at(source: BinaryIO, at: int, size: int) -> bytes:
    source.seek(at)
    return source.read(size)
