"""Turns an open file into the bytes to send: plain or sealed, whole or from a block on, in constant memory.

If a file changes while it is read, `ChangedError` is raised before its last bytes are yielded. A transfer that mixes
two versions therefore never reaches its announced length.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

from kropot.errors import KropotError
from kropot.gateway.sources import seen
from kropot.securecopy.iv import BLOCK
from kropot.securecopy.sealing import Sealer, sealed_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.gateway.ranges import Span
    from kropot.gateway.sources import Seen

STEP: Final = 16 << 20
"""One ciphertext block is remembered for every 16 MiB sent. A range can resume from each remembered block."""

CHUNK: Final = 1 << 20

_MOST_BLOCKS: Final = 1 << 16


class ChangedError(KropotError):
    """The file changed while it was read."""

    http_status = 503


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


def plain_chunks(descriptor: int, looks: Seen, span: Span) -> Iterator[bytes]:
    """Yield the bytes of `span`. The last chunk follows only after a final check that the file has not changed.

    Raises:
        ChangedError: the file has changed.
        OSError: the file cannot be read.
    """
    at = span.start
    while at < span.stop:
        chunk = _read(descriptor, at, min(CHUNK, span.stop - at))
        at += len(chunk)
        if at >= span.stop:
            check(descriptor, looks)
        yield chunk


def sealed_chunks(
    descriptor: int,
    looks: Seen,
    span: Span,
    *,
    iv: bytes,
    key: bytes,
    blocks: Blocks,
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
    check(descriptor, looks)
    yield held


def small_body(descriptor: int, looks: Seen, *, iv: bytes | None, key: bytes | None) -> bytes | None:
    """Return the whole body of a small file without waiting for the disk, sealed if there is a key.

    None if its bytes are not in memory, or the system cannot tell. The caller must then read it where it may block.

    Raises:
        ChangedError: the file has changed.
    """
    plain = bytearray(looks.size)
    if looks.size:
        try:
            got = os.preadv(descriptor, [plain], 0, os.RWF_NOWAIT)
        except (OSError, AttributeError):
            return None
        if got != looks.size:
            return None
    check(descriptor, looks)
    if iv is None or key is None:
        return bytes(plain)
    sealer, out = Sealer(key, iv), bytearray(Sealer.room(looks.size))
    size = sealer.update_into(plain, out)
    return bytes(memoryview(out)[:size]) + sealer.finish()


def can_begin(blocks: Blocks, iv: bytes, start: int) -> bool:
    """Whether sealing can begin at most 16 MiB before this byte."""
    return blocks.find(iv, start // STEP) is not None


def check(descriptor: int, looks: Seen) -> None:
    """Check that an open file has not changed.

    Raises:
        ChangedError: it has.
    """
    now = seen(os.fstat(descriptor))
    if now.identity != looks.identity:
        raise ChangedError("the file changed while it was read: ask again")


def _read(descriptor: int, at: int, size: int) -> bytes:
    """Return exactly `size` bytes from byte `at` on. Raises: ChangedError if the file ends earlier."""
    chunk = os.pread(descriptor, size, at)
    while len(chunk) < size:
        more = os.pread(descriptor, size - len(chunk), at + len(chunk))
        if not more:
            raise ChangedError("the file became shorter while it was read: ask again")
        chunk += more
    return chunk
