"""Open sealed forms and contents. A content is a stream, and its hash is checked at its end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kropot.errors import IntegrityError
from kropot.restore.claims import BadFormError, Claim, parse_form, read_claim, sealed_text
from kropot.securecopy.iv import BLOCK
from kropot.securecopy.sealing import BadSealError, Opener, open_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from kropot.replay.copies import HeldCopy
    from kropot.sc2.form import Form
    from kropot.securecopy.sealing import Kit

BUFFER = 1 << 18
"""Bytes to read at a time. Opening a content of any size needs one such buffer, and one for the output."""


class DamagedError(IntegrityError):
    """The stored bytes differ from those that were recorded."""


class NoKitError(IntegrityError):
    """None of the kits opens the form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An opened form: its claim, its JSON, and the kit that opened it (None if it was not sealed)."""

    claim: Claim
    form: bytes
    kit: Kit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A content that was read to its end: the SHA-256 (32 bytes) and size (bytes) of the plain bytes.

    `form` is the complete form in an object of sc2, with all attributes and holes; None for other objects.
    """

    sha256: bytes
    size: int
    form: Form | None = None


def open_claim(held: HeldCopy, kits: Sequence[Kit]) -> Opened:
    """Return the opened form of a held copy.

    Raises:
        NoKitError: the form is sealed, and no kit opens it.
        BadFormError: it is not a form.

    """
    sealed = sealed_text(held.form)
    if sealed is None:
        return Opened(claim=read_claim(held.form, element_id=held.key.id), form=held.form, kit=None)
    for kit in kits:
        try:
            form = open_form(sealed, kit)
            # One wrong key in 256 gives padding that looks right. It does not give a JSON object.
            parse_form(form)
        except (BadSealError, BadFormError):
            continue
        return Opened(claim=read_claim(form, element_id=held.key.id), form=form, kit=kit)
    raise NoKitError(
        "the form is sealed with another key: give the kit of its token with --key"
        if kits
        else "the form is sealed: give the kit of its token with --key"
    )


def copy_content(
    source: BinaryIO, write: Callable[[memoryview], object], *, held: HeldCopy, kit: Kit | None
) -> Content:
    """Read a stored object to its end, open it with `kit`, and pass the plain bytes to `write`.

    Returns the hash and size of the plain bytes. If this raises, the caller MUST discard what was written. Without a
    kit, the stored bytes are passed on unchanged.

    Raises:
        DamagedError: the object differs from what was recorded.
        BadSealError: the object is as recorded, and the key does not open it.

    """
    stored, plain = hashlib.sha256(), hashlib.sha256()
    sizes = [0, 0]
    buffer = bytearray(BUFFER)
    incoming = memoryview(buffer)
    opener = None if kit is None or held.iv is None else Opener(kit.key(held.iv), held.iv)
    out = bytearray(Opener.room(BUFFER) if opener is not None else 0)

    def emit(data: memoryview) -> None:
        plain.update(data)
        sizes[1] += len(data)
        write(data)

    while count := _fill(source, incoming):
        chunk = incoming[:count]
        stored.update(chunk)
        sizes[0] += count
        emit(chunk if opener is None else memoryview(out)[: opener.update_into(chunk, out)])
    if stored.digest() != held.sha256:
        raise DamagedError(
            f"the object {_hex(held)} is damaged: its {sizes[0]} bytes are not those that were recorded; "
            "run `kropotcli verify --repair`"
        )
    if opener is not None:
        emit(memoryview(opener.finish()))
    return Content(sha256=plain.digest(), size=sizes[1])


def plain_size(source: BinaryIO, *, held: HeldCopy, kit: Kit | None) -> int | None:
    """Return the plain size in bytes, worked out from the last block; None if the key does not fit that block.

    This proves nothing, because it does not read the whole object.
    """
    if kit is None or held.iv is None:
        return held.size
    if held.size < BLOCK or held.size % BLOCK:
        return None
    before = min(held.size - BLOCK, BLOCK)
    source.seek(held.size - BLOCK - before)
    tail = source.read(before + BLOCK)
    opener = Opener(kit.key(held.iv), tail[:before] or held.iv)
    opener.update_into(tail[before:], bytearray(Opener.room(BLOCK)))
    try:
        return held.size - BLOCK + len(opener.finish())
    except BadSealError:
        return None


def _fill(source: BinaryIO, buffer: memoryview) -> int:
    """Read until the buffer is full or the source ends; return how many bytes were read."""
    count = 0
    while count < len(buffer):
        read: int | None = source.readinto(buffer[count:])  # type: ignore[attr-defined]  # unbuffered files have it
        if not read:
            break
        count += read
    return count


def _hex(held: HeldCopy) -> str:
    return "" if held.sha256 is None else held.sha256.hex()
