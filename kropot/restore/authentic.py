"""Open what `sc2` sealed, and compare it with what the ledger says: the element, the version, the bytes.

Sealed data itself says what it is (docs/format.md, "Sealed objects"). But an object or a form of another element or
version opens as well. So code that knows which one to expect compares it here.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kropot.errors import IntegrityError
from kropot.restore.claims import sealed_text
from kropot.sc2.layout import list_form_bytes, parse_header
from kropot.sc2.opening import open_listed, open_object, open_whole
from kropot.sc2.refused import NoKeyError, Reason, RefusedError
from kropot.sc2.sparse import placed
from kropot.sc2.vault import keyring

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from kropot.replay.copies import HeldCopy
    from kropot.sc2.form import Form
    from kropot.sc2.layout import ObjectHeader
    from kropot.sc2.opening import ListedElement
    from kropot.sc2.vault import Vault

_ZEROS = memoryview(bytes(1 << 16))


class DamagedError(IntegrityError):
    """The stored bytes differ from those that were recorded."""


class NoKitError(IntegrityError):
    """None of the kits opens the form. `vault` (16 bytes) is the vault whose kit would, None if unknown."""

    def __init__(self, message: str, *, vault: bytes | None = None) -> None:
        """Remember the vault."""
        super().__init__(message)
        self.vault = vault


def open_authentic(sealed: str, held: HeldCopy, vaults: Sequence[Vault]) -> tuple[ListedElement, Vault]:
    """Return the opened form of an element of sc2, and its vault.

    Raises:
        NoKitError: no kit opens its vault.
        RefusedError: the form is not what the owner sealed, or it is that of another element.

    """
    ring = keyring(vaults)
    try:
        opened = open_listed(sealed, ring)
    except NoKeyError as error:
        vault = parse_header(list_form_bytes(sealed)).vault
        raise NoKitError(str(error), vault=vault) from None
    if opened.header.element_id != held.key.id:
        what = opened.form.path.decode(errors="backslashreplace")
        raise RefusedError(Reason.NAME, f"its form belongs to another element, {what}: somebody swapped them")
    return opened, next(each for each in vaults if each.id == opened.header.vault)


def open_at_once(data: bytes, held: HeldCopy, listed: ListedElement) -> tuple[Form, bytes, bytes] | None:
    """Return the complete form in an object that is given whole, the file's bytes, and their SHA-256.

    Return None if a check fails, or if it is not simply the object that `listed` describes. `copy_authentic` then opens
    it, or says what is wrong.
    """
    if len(data) != held.size or hashlib.sha256(data).digest() != held.sha256:
        return None
    try:
        opened = open_whole(data, listed)
    except RefusedError:
        return None
    if opened is None:
        return None
    form, plain = opened
    sha256 = hashlib.sha256(plain).digest()
    if len(plain) != form.size or form.sha256 not in (None, sha256):
        return None
    return form, plain, sha256


def copy_authentic(
    source: BinaryIO,
    write: Callable[[memoryview], object],
    *,
    held: HeldCopy,
    vault: Vault,
    skip: Callable[[int], object] | None = None,
) -> tuple[Form, bytes]:
    """Read an object to its end, and pass the file's bytes to `write`. `skip` gets the lengths of its holes.

    Without `skip`, holes are written as zeros.

    Returns the complete form in the object, and the SHA-256 (32 bytes) of the file. If this raises, the caller MUST
    discard what was written.

    Raises:
        DamagedError: the object differs from what was recorded.
        RefusedError: it is as recorded, but it is not what the owner sealed for this element and version.

    """
    stored = _Hashing(source)
    try:
        form, sha256 = _copied(stored, write, held, vault, skip)
    except RefusedError:
        # If the storage altered it, that is damage, and the object can be fetched again.
        stored.compare(held)
        raise
    stored.compare(held)
    return form, sha256


def _copied(
    source: _Hashing,
    write: Callable[[memoryview], object],
    held: HeldCopy,
    vault: Vault,
    skip: Callable[[int], object] | None,
) -> tuple[Form, bytes]:
    opened = open_object(source, {vault.id: vault})  # type: ignore[arg-type]  # it only reads
    sealed = sealed_text(held.form)
    _compare(opened.header, None if sealed is None else parse_header(list_form_bytes(sealed)), held)
    plain, at = hashlib.sha256(), 0

    def put(data: memoryview, to: Callable[[memoryview], object]) -> None:
        nonlocal at
        plain.update(data)
        at += len(data)
        to(data)

    def fill(until: int) -> None:
        hole = until - at
        while at < until:
            put(_ZEROS[: until - at], write if skip is None else len)
        if skip is not None and hole:
            skip(hole)

    for offset, data in placed(opened.form, opened.chunks):
        fill(offset)
        put(memoryview(data), write)
    fill(opened.form.size)
    if opened.form.sha256 not in (None, plain.digest()):
        raise RefusedError(Reason.CONTENT, "its content does not have the SHA-256 in its form")
    return opened.form, plain.digest()


def _compare(found: ObjectHeader, listed: ObjectHeader | None, held: HeldCopy) -> None:
    """Compare the object's header with the one in the form that the ledger recorded. Raises: RefusedError.

    Nothing was recorded about a single file that somebody decrypts, so its own header says what it is.
    """
    if found.element_id != held.key.id:
        raise RefusedError(Reason.NAME, "its content belongs to another element: somebody swapped them")
    if listed is None:
        return
    if found.source != listed.source:
        raise RefusedError(Reason.HEADER, "its content comes from another source than its form")
    if found.version != listed.version:
        raise RefusedError(Reason.HEADER, "its content belongs to another version: somebody swapped them")


class _Hashing:
    """Reads from a source, and hashes what it reads."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._size = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self._size += len(data)
        return data

    def compare(self, held: HeldCopy) -> None:
        """Read the rest, and compare everything with the record. Raises: DamagedError."""
        while self.read(1 << 18):
            pass
        if self._hash.digest() != held.sha256 or self._size != held.size:
            name = "" if held.sha256 is None else held.sha256.hex()
            raise DamagedError(
                f"the object {name} is damaged: its {self._size} bytes are not those that were recorded; "
                "run `kropotcli verify --repair`"
            )
