"""Turning an open file into the bytes that are sent: plain or sealed, whole or from a block on, in constant memory.

A file that changes while it is read ends with `ChangedError` before its last bytes are given out, so a transfer never
reaches its announced length with a mixture of two versions.
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
"""One ciphertext block is remembered for so many bytes sent; a range can begin behind each of them."""

CHUNK: Final = 1 << 20

_MOST_BLOCKS: Final = 1 << 16


class ChangedError(KropotError):
    """The file changed while it was read."""

    http_status = 503


class Blocks:
    """Remembered ciphertext blocks, the one in front of each 16 MiB, by content; 65,536 of them (1 TiB of content).

    A content is known by its IV, which belongs to one token and one version; so what is remembered here cannot
    be mistaken for a block of other bytes.
    """

    def __init__(self, most: int = _MOST_BLOCKS) -> None:
        """Remember up to `most` blocks, forgetting whole contents, the least recently used first."""
        self._most = most
        self._held = 0
        self._contents: OrderedDict[bytes, dict[int, bytes]] = OrderedDict()
        self._lock = Lock()

    def keep(self, iv: bytes, step: int, block: bytes) -> None:
        """Remember the last ciphertext block (16 bytes) in front of byte `step` * 16 MiB."""
        with self._lock:
            blocks = self._contents.setdefault(iv, {})
            self._held += step not in blocks
            blocks[step] = block
            self._contents.move_to_end(iv)
            while self._held > self._most and len(self._contents) > 1:
                _, forgotten = self._contents.popitem(last=False)
                self._held -= len(forgotten)

    def find(self, iv: bytes, step: int) -> bytes | None:
        """Return what sealing from byte `step` * 16 MiB on begins with: the IV itself at 0, else a remembered block."""
        if step == 0:
            return iv
        with self._lock:
            return self._contents.get(iv, {}).get(step)


def plain_chunks(descriptor: int, looks: Seen, span: Span) -> Iterator[bytes]:
    """Yield the bytes of `span`; the last chunk comes only after a last look at the file.

    Raises:
        ChangedError: the file is no longer what it was.
        OSError: it cannot be read.
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
    """Yield the ciphertext bytes of `span`, sealing from the remembered block in front of it.

    `span` MUST begin where `blocks` has a block (see `can_begin`).

    Raises:
        ChangedError: the file is no longer what it was.
        OSError: it cannot be read.
    """
    step = span.start // STEP
    begin = blocks.find(iv, step)
    if begin is None:
        raise ChangedError("the block in front of this range is no longer remembered")
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
    """Return the whole body of a small file, sealed if there is a key, without waiting for a disk.

    None if its bytes are not in memory, or the system cannot tell: then it has to be read where waiting does no harm.

    Raises:
        ChangedError: the file is no longer what it was.
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
    """Whether sealing can begin at most 16 MiB in front of this byte."""
    return blocks.find(iv, start // STEP) is not None


def check(descriptor: int, looks: Seen) -> None:
    """Make sure that an open file still is what it was.

    Raises:
        ChangedError: it is not.
    """
    now = seen(os.fstat(descriptor))
    if now.identity != looks.identity:
        raise ChangedError("the file changed while it was read")


def _read(descriptor: int, at: int, size: int) -> bytes:
    """Return exactly `size` bytes from byte `at` on. Raises: ChangedError if the file ends before."""
    chunk = os.pread(descriptor, size, at)
    while len(chunk) < size:
        more = os.pread(descriptor, size - len(chunk), at + len(chunk))
        if not more:
            raise ChangedError("the file became shorter while it was read")
        chunk += more
    return chunk
