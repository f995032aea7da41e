"""Open sealed forms and contents. A content is a stream, and its hash is checked at its end.

What `sc2` sealed is opened by kropot/restore/authentic.py.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kropot.restore import authentic
from kropot.restore.authentic import DamagedError, NoKitError, copy_authentic, open_authentic
from kropot.restore.claims import BadFormError, Claim, claim_of, parse_form, read_claim, sealed_text
from kropot.sc2.kit import CbcKey
from kropot.sc2.layout import is_list_form
from kropot.sc2.refused import Reason, RefusedError
from kropot.sc2.vault import Vault
from kropot.securecopy.iv import BLOCK
from kropot.securecopy.sealing import BadSealError, Opener, element_id, open_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from kropot.replay.copies import HeldCopy
    from kropot.sc2.form import Form
    from kropot.sc2.opening import ListedElement

    Key = CbcKey | Vault
    """What opens forms and contents: the key of one CBC token, or a vault."""

BUFFER = 1 << 18
"""Bytes to read at a time. Opening a content of any size needs one such buffer, and one for the output."""


Sealing = Literal["sc2", "cbc", "plain"]
"""How an element is sealed: authenticated, by AES-256-CBC, or not at all."""


class Opened(Struct, frozen=True, kw_only=True):
    """An opened form: its claim, its JSON (empty for sc2), and the key that opened it (None if it was not sealed).

    `is_bound` is whether the element's id was compared with the name in the form. `is_glance`: the claim has only name
    and time, and the form must be opened again for the rest (kropot/restore/small.py); `kept` is the worker that has it
    open, and the number of its look. `listed` opens the object of sc2 whole; it is never written anywhere.
    """

    claim: Claim
    form: bytes
    kit: Key | None
    is_bound: bool = False
    is_glance: bool = False
    kept: tuple[int, int] | None = None
    listed: ListedElement | None = None

    @property
    def sealing(self) -> Sealing:
        """How the form was sealed."""
        if self.kit is None:
            return "plain"
        return "sc2" if isinstance(self.kit, Vault) else "cbc"


class Content(Struct, frozen=True, kw_only=True):
    """A content that was read to its end: the SHA-256 (32 bytes) and size (bytes) of the plain bytes.

    `form` is the complete form in an object of sc2, with all attributes and holes; None for other objects.
    """

    sha256: bytes
    size: int
    form: Form | None = None


def open_claim(held: HeldCopy, kits: Sequence[Key], *, keep: bool = False) -> Opened:
    """Return the opened form of a held copy. With `keep`, it also holds what opens its object in one piece.

    Raises:
        NoKitError: the form is sealed, and no kit opens it.
        BadFormError: it is not a form.
        RefusedError: it is not what the owner sealed for this element.

    """
    sealed = sealed_text(held.form)
    if sealed is None:
        if any(isinstance(kit, Vault) for kit in kits):
            raise RefusedError(
                Reason.FORM,
                "it is not sealed, so anybody can have made it: restore such elements separately, without --key",
            )
        return Opened(claim=read_claim(held.form, element_id=held.key.id), form=held.form, kit=None)
    if is_list_form(sealed):
        listed, vault = open_authentic(sealed, held, [kit for kit in kits if isinstance(kit, Vault)])
        return Opened(claim=claim_of(listed.form), form=b"", kit=vault, is_bound=True, listed=listed if keep else None)
    return _open_cbc(sealed, held, [kit for kit in kits if isinstance(kit, CbcKey)])


def _open_cbc(sealed: str, held: HeldCopy, kits: Sequence[CbcKey]) -> Opened:
    for key in kits:
        try:
            form = open_form(sealed, key.kit)
            # One wrong key in 256 gives padding that looks right. It does not give a JSON object.
            parse_form(form)
        except (BadSealError, BadFormError):
            continue
        claim = read_claim(form, element_id=held.key.id)
        _refuse_foreign_name(claim, held, key)
        return Opened(claim=claim, form=form, kit=key, is_bound=key.stored_salt is not None)
    raise NoKitError(
        "the form is sealed with another key: give the kit of its token with --key"
        if kits
        else "the form is sealed: give the kit of its token with --key"
    )


def _refuse_foreign_name(claim: Claim, held: HeldCopy, key: CbcKey) -> None:
    """Compare the element's id with the name in its form, if the kit has the salt. Raises: RefusedError."""
    if key.stored_salt is None:
        return
    if element_id(key.stored_salt, claim.name, key.kit.digest) != held.key.id:
        raise RefusedError(Reason.NAME, f"its form belongs to another element, {claim.what}: somebody swapped them")


def copy_content(
    source: BinaryIO,
    write: Callable[[memoryview], object],
    *,
    held: HeldCopy,
    kit: Key | None,
    skip: Callable[[int], object] | None = None,
) -> Content:
    """Read a stored object to its end, open it with `kit`, and pass the plain bytes to `write`.

    `skip` gets the lengths of a file's holes, if the object records them. Without it, they are written as zeros.

    Returns the hash and size of the plain bytes. If this raises, the caller MUST discard what was written. Without a
    kit, the stored bytes are passed on unchanged.

    Raises:
        DamagedError: the object differs from what was recorded.
        BadSealError: the object is as recorded, but the key does not open it.
        RefusedError: the object is as recorded, but it is not what the owner sealed for this element.

    """
    if isinstance(kit, Vault):
        form, sha256 = copy_authentic(source, write, held=held, vault=kit, skip=skip)
        return Content(sha256=sha256, size=form.size, form=form)
    stored, plain = hashlib.sha256(), hashlib.sha256()
    sizes = [0, 0]
    buffer = bytearray(BUFFER)
    incoming = memoryview(buffer)
    opener = None if kit is None or held.iv is None else Opener(kit.kit.key(held.iv), held.iv)
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


def open_at_once(data: bytes, *, held: HeldCopy, opened: Opened) -> tuple[Content, bytes | memoryview] | None:
    """Return what `copy_content` would, and the plain bytes, for a stored object that is given whole.

    Return None if it is not that simple, or if something is wrong with it. Raises: the errors of `copy_content`.
    """
    if opened.listed is not None:
        found = authentic.open_at_once(data, held, opened.listed)
        return None if found is None else (Content(sha256=found[2], size=found[0].size, form=found[0]), found[1])
    plain = io.BytesIO()
    content = copy_content(io.BytesIO(data), plain.write, held=held, kit=opened.kit)
    return content, plain.getbuffer()


def plain_size(source: BinaryIO, *, held: HeldCopy, kit: Key | None) -> int | None:
    """Return the plain size in bytes, worked out from the last block; None if the key does not fit that block.

    This proves nothing, because it does not read the whole object.
    """
    if not isinstance(kit, CbcKey) or held.iv is None:
        return held.size
    if held.size < BLOCK or held.size % BLOCK:
        return None
    before = min(held.size - BLOCK, BLOCK)
    source.seek(held.size - BLOCK - before)
    tail = source.read(before + BLOCK)
    opener = Opener(kit.kit.key(held.iv), tail[:before] or held.iv)
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
