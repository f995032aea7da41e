"""Sealed forms, as the database keeps them with the ids of a token. Each is made once for each state of its file.

A keyed hash vouches for a form and for everything it was made from. So an outdated form is never sent, and nobody can
forge a form by writing to the database.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from binascii import b2a_base64, hexlify
from typing import TYPE_CHECKING, Final

from kropot.gateway.entries import TYPE, ZONE
from kropot.msgpacked import pack
from kropot.sc2.keyed import KeyedHash
from kropot.securecopy.wire import encode_sealed_entry

if TYPE_CHECKING:
    from kropot.gateway.keys import MasterKey
    from kropot.gateway.state import FileRow
    from kropot.gateway.token import Token
    from kropot.securecopy.wire import Listed

_VERSION: Final = b"listed form 2"
"""What the key is derived from. If it changes, all forms are made again."""

_TAG: Final = 16
_SIZE: Final = 8
_ETAG: Final = 16
_BEGIN: Final = b'{"encrypted":"'
_END: Final = b'"}'


class KeptForms:
    """Makes and reads the parts of list entries that are kept."""

    def __init__(self, master: MasterKey) -> None:
        """Vouch with a key that is derived from `master`."""
        self._hash = KeyedHash(master.vouch(_VERSION))

    def kept(self, token: Token, row: FileRow, birth: bytes | None, entry: Listed) -> bytes | None:
        """Return what to keep of an entry: tag, size, entity tag and sealed form. None if nothing is worth keeping.

        `birth` is what is kept of the version's birth for a token of sc2.
        """
        if token.is_plain or entry.size is None or entry.etag is None:
            return None
        sealed = b64decode(entry.form[len(_BEGIN) : -len(_END)])
        body = entry.size.to_bytes(_SIZE, "big") + bytes.fromhex(entry.etag[1:-1]) + sealed
        return self._tag(token, row, birth, body) + body

    def line(self, token: Token, element: str, row: FileRow, birth: bytes | None, kept: bytes | None) -> bytes | None:
        """Return the encoded entry of a file, or None if `kept` was not made from exactly these values."""
        if kept is None or row.restless_s is not None:
            return None
        body = kept[_TAG:]
        if not hmac.compare_digest(kept[:_TAG], self._tag(token, row, birth, body)):
            return None
        return encode_sealed_entry(
            type_=TYPE,
            id_=element,
            date=row.date or 0,
            tz=ZONE,
            sealed=b2a_base64(body[_SIZE + _ETAG :], newline=False),
            size=int.from_bytes(body[:_SIZE], "big"),
            etag=hexlify(body[_SIZE : _SIZE + _ETAG]),
        )

    def _tag(self, token: Token, row: FileRow, birth: bytes | None, body: bytes) -> bytes:
        vault = b"" if token.held is None else token.held.vault.id
        made_of = (token.scope, vault, row.path, row.identity, row.mode, row.nonce, row.sha256, row.facts, birth, body)
        return self._hash(pack(made_of))[:_TAG]
