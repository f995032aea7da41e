"""Keeps what each version is sealed from for a vault: the form at its birth, and the key. Neither changes later.

A version is born when a token of the vault first meets it. So its object can be sealed again for every collector, from
any byte on. A seal under the master key vouches for what the database keeps of a birth, so anyone who can write to the
database can choose neither a form nor a retired key.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kropot.gateway.facts import form_of, listed_form, moving_form
from kropot.gateway.ivs import NONCE_BYTES
from kropot.gateway.serving import ChangedError
from kropot.gateway.sources import NotServedError, path_key
from kropot.logs import log
from kropot.sc2.form import Form, fitted, merged, vouched_form
from kropot.sc2.layout import (
    KEY_ID_BYTES,
    LENGTH_BYTES,
    ObjectHeader,
    list_form_bytes,
    padded_form_size,
    parse_header,
    sealed_length,
)
from kropot.sc2.refused import RefusedError
from kropot.sc2.seal import Sealing, seal_list_form
from kropot.sc2.sparse import content_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ReadAt = Callable[[int, int], bytes]

    from kropot.gateway.keys import MasterKey
    from kropot.gateway.sources import Seen
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.token import Token
    from kropot.gateway.vaults import HeldVault, VaultBook


_SEAL: Final = 32
_KEY_AT: Final = NONCE_BYTES + _SEAL
_FORM_AT: Final = _KEY_AT + KEY_ID_BYTES
_TRIES: Final = 4
_MOST_RECENT: Final = 16_384
LONGEST_REMEMBERED: Final = 4096
"""Longer records are read from the database each time, so that thousands of them do not fill memory."""


class Birth(Struct, frozen=True, kw_only=True):
    """A version as a vault seals it. `size` is the sealed length of the whole object, in bytes.

    `encoded` is what `form.encode` returns.

    `attributes` come before the content, because they do not fit into the form.
    """

    held: HeldVault
    source: bytes
    version: bytes
    key_id: bytes
    form: Form
    encoded: bytes
    attributes: bytes
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether the content is the file from its first to its last byte, and nothing else."""
        return not self.form.holes and not self.form.attributes

    def content(self, read_file: ReadAt) -> ReadAt:
        """Return a function that reads the plain content, given one that reads the file."""
        complete = merged(self.form, self.attributes) if self.attributes else self.form
        return content_reader(complete, read_file, self.attributes)

    def sealing(self, *, now: Seen | None = None, element: bytes | None = None) -> Sealing:
        """Return the `Sealing` of the object. `now` describes a file that never rests: its form says what is there now.

        `element` is the element's id (32 bytes), if the caller knows it.
        """
        form, encoded = (self.form, self.encoded) if now is None else (moving_form(self.form, now), None)
        return Sealing(
            self.held.vault,
            form,
            source=self.source,
            version=self.version,
            key_id=self.key_id,
            element=element,
            encoded=encoded,
        )

    def list_form(
        self, row: FileRow, *, is_new: bool = False, element: bytes | None = None
    ) -> tuple[str, ObjectHeader]:
        """Return the sealed form for a list, which says what the file is now, and the header of the object.

        A birth that `is_new` was made from this very row. `element` is the id (32 bytes), if the caller knows it.
        """
        encoded = self.encoded if is_new else listed_form(row, self.form).encode()
        text = seal_list_form(
            self.held.vault,
            self.form,
            source=self.source,
            version=self.version,
            key_id=self.key_id,
            element=element,
            encoded=encoded,
        )
        return text, parse_header(list_form_bytes(text))


class Births:
    """The births of one gateway's versions."""

    def __init__(
        self, state: State, master: MasterKey, vaults: VaultBook, source: bytes, clock_ns: Callable[[], int]
    ) -> None:
        """Keep births in `state`. `source` (16 bytes) is in the header of each object."""
        self._state = state
        self._master = master
        self._vaults = vaults
        self._source = source
        self._clock_ns = clock_ns
        self._recent: dict[bytes, Birth] = {}

    def of(self, token: Token, mark: bytes, row: FileRow) -> tuple[Birth, FileRow]:
        """Return the birth of a file's version for a token, and the row with the record of it.

        Raises:
            NotServedError: the file was forgotten, or sc2 cannot seal it.
            ChangedError: other requests kept changing it meanwhile.
            StateError, RetiredMasterError: see `State` and `VaultBook.refuse_retired`.
        """
        found = self.of_all(token, [(mark, row)])
        if not found:
            raise NotServedError("there is no such element")
        return found[0][2], found[0][1]

    def of_all(self, token: Token, files: Sequence[tuple[bytes, FileRow]]) -> list[tuple[bytes, FileRow, Birth]]:
        """Return the births of files, each given as (mark, row). A file that sc2 cannot seal is left out.

        Raises: as `of`, except NotServedError.
        """
        found: dict[bytes, tuple[FileRow, Birth]] = {}
        left = {mark: row for mark, row in files if not self._take(token, mark, row, row.birth, found)}
        for _ in range(_TRIES):
            if not left:
                break
            kept = self._state.births(token.scope, list(left))
            lost = left.keys() - kept.keys()
            left = {
                mark: row
                for mark, row in left.items()
                if mark not in lost and not self._take(token, mark, row, kept[mark], found)
            }
            if left:
                self.check_master(token)
            made = [(mark, kept[mark], new[0]) for mark, row in left.items() if (new := self.made(token, row))]
            if len(made) < len(left):
                log.warning("files_not_sealed", files=len(left) - len(made), hint="sc2 cannot hold their size or path")
            left = {mark: left[mark] for mark, _, _ in made}
            if made:
                now = self._state.keep_births(token.scope, made)
                left = {
                    mark: row
                    for mark, row in left.items()
                    if mark in now and not self._take(token, mark, row, now[mark], found)
                }
        if left:
            raise ChangedError("the files change faster than they can be listed: ask again")
        return [(mark, *found[mark]) for mark, _ in files if mark in found]

    def vouched(self, token: Token, row: FileRow) -> Birth | None:
        """Return the birth of a row that this gateway has vouched for, such as a row of `RecentFiles`.

        Return None if only the database can tell.
        """
        record = row.birth
        if record is None or token.held is None or record[:NONCE_BYTES] != row.nonce:
            return None
        return self._remembered(token, token.held, row, record) or self._told(token, token.held, row, record)

    def check_master(self, token: Token) -> None:
        """Check that versions may be born for a token. Raises: as `VaultBook.refuse_retired`."""
        if token.held is not None:
            self._vaults.refuse_retired(token.held.vault)

    def remember(self, record: bytes, birth: Birth) -> None:
        """Remember a birth that is stored."""
        if len(record) <= LONGEST_REMEMBERED:
            if len(self._recent) >= _MOST_RECENT:
                self._recent.clear()
            self._recent[record] = birth

    def _take(
        self,
        token: Token,
        mark: bytes,
        row: FileRow,
        record: bytes | None,
        found: dict[bytes, tuple[FileRow, Birth]],
    ) -> bool:
        """Add a birth to `found` if the record is of this version and from this gateway. Return whether it is."""
        birth = self._read(token, row, record)
        if birth is not None:
            found[mark] = (row if row.birth == record else row._replace(birth=record)), birth
        return birth is not None

    def _read(self, token: Token, row: FileRow, record: bytes | None) -> Birth | None:
        """Return the birth in a record, or None if it is of another version, or nothing vouches for it."""
        if record is None or token.held is None or record[:NONCE_BYTES] != row.nonce:
            return None
        kept = self._remembered(token, token.held, row, record)
        if kept is not None:
            return kept
        birth = self._proved(token, token.held, row, record)
        if birth is not None:
            self.remember(record, birth)
        return birth

    def _remembered(self, token: Token, held: HeldVault, row: FileRow, record: bytes) -> Birth | None:
        kept = self._recent.get(record)
        if kept is None or kept.held.vault is not held.vault:
            return None
        return kept if (kept.form.path, kept.form.padding) == (row.path, token.padding) else None

    def _proved(self, token: Token, held: HeldVault, row: FileRow, record: bytes) -> Birth | None:
        """Return the birth in a record, or None if its seal does not vouch for it."""
        key_id, content = record[_KEY_AT:_FORM_AT], record[_FORM_AT:]
        if not hmac.compare_digest(record[NONCE_BYTES:_KEY_AT], self._seal(token, row, key_id, content)):
            return None
        return self._told(token, held, row, record)

    def _told(self, token: Token, held: HeldVault, row: FileRow, record: bytes) -> Birth | None:
        """Return the birth in a record, unchecked, or None if the vault does not hold its key."""
        key_id, content = record[_KEY_AT:_FORM_AT], record[_FORM_AT:]
        if key_id not in held.vault.key_ids:
            return None
        end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "big")
        encoded, attributes = content[LENGTH_BYTES:end], content[end:]
        form = vouched_form(encoded)
        return self._born(token, held, row, key_id=key_id, form=form, encoded=encoded, attributes=attributes)

    def _born(
        self,
        token: Token,
        held: HeldVault,
        row: FileRow,
        *,
        key_id: bytes,
        form: Form,
        encoded: bytes,
        attributes: bytes,
    ) -> Birth:
        return Birth(
            held=held,
            source=self._source,
            version=held.vault.version(row.nonce + (b"padme" if token.padding else b"")),
            key_id=key_id,
            form=form,
            encoded=encoded,
            attributes=attributes,
            size=sealed_length(content=form.padded_length, form=padded_form_size(len(encoded))),
        )

    def made(self, token: Token, row: FileRow) -> tuple[bytes, Birth] | None:
        """Return the record and the birth of a version that is born now, or None if sc2 cannot seal the file.

        The record MUST be stored before any client sees the birth. Until then, another one can be stored in its place.
        """
        if token.held is None:
            raise ValueError("only a token of sc2 has births")
        try:
            complete = form_of(row, sealed_us=self._clock_ns() // 1000, padding=token.padding)
            form, encoded, attributes = _fitted(complete)
        except RefusedError:
            return None
        key_id = token.held.vault.key_ids[-1]
        kept = len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded + attributes
        record = row.nonce + self._seal(token, row, key_id, kept) + key_id + kept
        birth = self._born(token, token.held, row, key_id=key_id, form=form, encoded=encoded, attributes=attributes)
        return record, birth

    def _seal(self, token: Token, row: FileRow, key_id: bytes, kept: bytes) -> bytes:
        """Return the seal (32 bytes) that vouches for a birth."""
        vault = b"" if token.held is None else token.held.vault.id
        padding = b"\x01" if token.padding else b"\x00"
        return self._master.vouch(b"birth", vault, padding, path_key(row.path), row.nonce, key_id, kept)


def _fitted(complete: Form) -> tuple[Form, bytes, bytes]:
    """Return a form that fits, its bytes, and the attributes that come before the content. Raises: RefusedError."""
    try:
        return complete, complete.encode(), b""
    except RefusedError:
        form, attributes = fitted(complete)
        return form, form.encode(), attributes
