"""Turns an open file into the bytes to send: plain or sealed, whole or from a block on, in constant memory.

If a file changes while it is read, `ChangedError` is raised before its last bytes are yielded. A transfer that mixes
two versions therefore never reaches its announced length.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

from kropot.errors import KropotError
from kropot.securecopy.iv import BLOCK
from kropot.securecopy.sealing import Sealer, sealed_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadAt = Callable[[int, int], bytes]

    from kropot.gateway.ranges import Span
    from kropot.gateway.sources import Seen
    from kropot.sc2.seal import Sealing

STEP: Final = 16 << 20
"""One ciphertext block is remembered for every 16 MiB sent. A range can resume from each remembered block."""

CHUNK: Final = 1 << 20

_MOST_BLOCKS: Final = 1 << 16


class ChangedError(KropotError):
    """The file changed while it was read."""

    http_status = 503


class ContentReading:
    """One reading of a file: the check at its end, and the SHA-256 of the bytes that were read."""

    def __init__(self, *, is_moving: bool = False, learn: Callable[[bytes], None] | None = None) -> None:
        """Check nothing if the file `is_moving`. Call `learn` with the SHA-256 of a file that is read whole."""
        self._is_moving = is_moving
        self._learn = learn
        self._digest = None if learn is None else hashlib.sha256()

    def take(self, plain: bytes) -> None:
        """Take in the next bytes of the file."""
        if self._digest is not None:
            self._digest.update(plain)

    def end(self, descriptor: int, looks: Seen) -> None:
        """Check the file. Raises: ChangedError if it has changed."""
        if not self._is_moving:
            check(descriptor, looks)
        if self._learn is not None and self._digest is not None:
            self._learn(self._digest.digest())


class Blocks:
    """Remembered ciphertext blocks of contents: the last one before each 16 MiB step. 65,536 of them cover 1 TiB.

    The key is the content's IV, which belongs to one token and one version. So a block can never be taken for a block
    of another content.
    """

    def __init__(self, most: int = _MOST_BLOCKS) -> None:
        """Remember up to `most` blocks. Beyond that, forget the least recently extended content as a whole."""
        self._most = most
        self._held = 0
        self._contents: OrderedDict[bytes, dict[int, bytes]] = OrderedDict()
        self._lock = Lock()

    def keep(self, iv: bytes, step: int, block: bytes) -> None:
        """Remember the last ciphertext block (16 bytes) before byte `step` * 16 MiB."""
        with self._lock:
            blocks = self._contents.setdefault(iv, {})
            self._held += step not in blocks
            blocks[step] = block
            self._contents.move_to_end(iv)
            while self._held > self._most and len(self._contents) > 1:
                _, forgotten = self._contents.popitem(last=False)
                self._held -= len(forgotten)

    def find(self, iv: bytes, step: int) -> bytes | None:
        """Return the 16 bytes that sealing starts with at byte `step` * 16 MiB: the IV at 0, else a remembered block.

        None if the block is not remembered.
        """
        if step == 0:
            return iv
        with self._lock:
            return self._contents.get(iv, {}).get(step)


def plain_chunks(descriptor: int, looks: Seen, span: Span, reading: ContentReading) -> Iterator[bytes]:
    """Yield the bytes of `span`. The last chunk follows only after a final check that the file has not changed.

    Raises:
        ChangedError: the file has changed.
        OSError: the file cannot be read.
    """
    at = span.start
    while at < span.stop:
        chunk = _read(descriptor, at, min(CHUNK, span.stop - at))
        reading.take(chunk)
        at += len(chunk)
        if at >= span.stop:
            reading.end(descriptor, looks)
        yield chunk


def sealed_chunks(
    descriptor: int,
    looks: Seen,
    span: Span,
    *,
    iv: bytes,
    key: bytes,
    blocks: Blocks,
    reading: ContentReading,
) -> Iterator[bytes]:
    """Yield the ciphertext bytes of `span`. Sealing starts from the remembered block before it.

    `blocks` MUST have that block (see `can_begin`).

    Raises:
        ChangedError: the file has changed, or the block is no longer remembered.
        OSError: the file cannot be read.
    """
    step = span.start // STEP
    begin = blocks.find(iv, step)
    if begin is None:
        raise ChangedError("the block before this range is no longer remembered: ask again")
    at, skip = step * STEP, span.start - step * STEP
    sealer, total = Sealer(key, begin), sealed_size(looks.size)
    out = bytearray(Sealer.room(min(CHUNK, looks.size)))
    held = b""
    while at < span.stop:
        plain = _read(descriptor, at, min(CHUNK, looks.size - at))
        reading.take(plain)
        is_last = at + len(plain) == looks.size
        size = sealer.update_into(plain, out)
        ready = bytes(memoryview(out)[:size])
        at += size
        if size and at % STEP == 0:
            blocks.keep(iv, at // STEP, ready[-BLOCK:])
        if is_last:
            ready += sealer.finish()
            at = total
        if at > span.stop:
            ready = ready[: span.stop - at]
        if skip:
            skip, ready = max(0, skip - len(ready)), ready[skip:]
        if held:
            yield held
        held = ready
    reading.end(descriptor, looks)
    yield held


def vault_chunks(
    descriptor: int,
    looks: Seen,
    span: Span,
    *,
    sealing: Sealing,
    content: Callable[[ReadAt], ReadAt],
    reading: ContentReading,
) -> Iterator[bytes]:
    """Yield the bytes of `span` of an object of sc2, from any byte on. `content` makes the content from the file.

    The last bytes follow only after a final check that the file has not changed.

    Raises:
        ChangedError: the file has changed.
        OSError: the file cannot be read.
    """

    def read_file(offset: int, size: int) -> bytes:
        plain = _read(descriptor, offset, size)
        reading.take(plain)
        return plain

    ready, held = bytearray(), b""
    for piece in sealing.span(content(read_file), span.start, span.stop):
        ready += piece
        if len(ready) >= CHUNK:
            if held:
                yield held
            held, ready = bytes(ready), bytearray()
    reading.end(descriptor, looks)
    yield held + ready


def whole(descriptor: int, looks: Seen, *, is_moving: bool = False) -> bytes:
    """Return all bytes of a small file, for which memory is no concern.

    Raises:
        ChangedError: the file has changed, or got shorter if it `is_moving`.
        OSError: the file cannot be read.
    """
    plain = _read(descriptor, 0, looks.size)
    if not is_moving:
        check(descriptor, looks)
    return plain


def sealed_whole(plain: bytes, *, iv: bytes, key: bytes) -> bytes:
    """Return the whole ciphertext of a small content."""
    sealer, out = Sealer(key, iv), bytearray(Sealer.room(len(plain)))
    size = sealer.update_into(plain, out)
    return bytes(memoryview(out)[:size]) + sealer.finish()


def can_begin(blocks: Blocks, iv: bytes, start: int) -> bool:
    """Whether sealing can begin at most 16 MiB before this byte."""
    return blocks.find(iv, start // STEP) is not None


def check(descriptor: int, looks: Seen) -> None:
    """Check that an open file has not changed, and ends where its size says.

    Some file systems report a size of 0, or too small a size, for a file with content. Only reading further shows that.

    Raises:
        ChangedError: it has changed, or there is more of it.
    """
    if os.pread(descriptor, 1, looks.size):
        raise ChangedError("the file is longer than its size says: ask again")
    if not looks.is_of(os.fstat(descriptor)):
        raise ChangedError("the file changed while it was read: ask again")


def _read(descriptor: int, at: int, size: int) -> bytes:
    """Return exactly `size` bytes from byte `at` on. Raises: ChangedError if the file ends earlier."""
    chunk = os.pread(descriptor, size, at)
    while len(chunk) < size:
        more = os.pread(descriptor, size - len(chunk), at + len(chunk))
        if not more:
            raise ChangedError("the file got shorter while it was read: ask again")
        chunk += more
    return chunk
