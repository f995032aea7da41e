"""How a file appears to a token: its id, its form and its list entry."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from kropot.gateway.ivs import content_iv, etag, form_iv
from kropot.gateway.sources import identity_parts
from kropot.securecopy.sealing import element_id, seal_form, sealed_size
from kropot.securecopy.wire import Listed, canonical_json

if TYPE_CHECKING:
    from kropot.gateway.births import Birth
    from kropot.gateway.state import FileRow
    from kropot.gateway.token import Token

TYPE: Final = "file"
ZONE: Final = "UTC"
MARK_BYTES: Final = 16

_MOST_KEYS = 65_536
_MOST_FORMS = 16_384
_CHEAP_ROUNDS = 64

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Sealings:
    """Makes list entries, and caches derived keys and sealed forms. A key is usually derived once per version."""

    def __init__(self, source: bytes) -> None:
        """Seal for the source with this id (16 bytes)."""
        self.source = source
        self._keys: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()
        self._forms: OrderedDict[tuple[int, bytes], str] = OrderedDict()
        self._lock = Lock()

    def iv(self, token: Token, element: str, nonce: bytes, identity: bytes) -> bytes:
        """Return the IV of a content for a token. `identity` is the file's identity when the nonce was made."""
        return content_iv(token.iv_key, self.source, token.id, element, nonce, identity=identity)

    def etag(self, token: Token, element: str, nonce: bytes) -> str:
        """Return the entity tag of a content for a token."""
        return etag(token.iv_key, self.source, token.id, element, nonce)

    def ready_key(self, token: Token, iv: bytes) -> bytes | None:
        """Return the key (16 bytes) if it is cached or cheap to derive, else None."""
        with self._lock:
            key = self._keys.get((token.number, iv))
        if key is None and token.kit is not None and token.kit.rounds <= _CHEAP_ROUNDS:
            key = token.kit.key(iv)
        return key

    def key(self, token: Token, iv: bytes) -> bytes:
        """Return the key (16 bytes) of an encrypted token for an IV. The first call can take milliseconds."""
        key = self.ready_key(token, iv)
        if key is not None:
            return key
        if token.kit is None:
            raise ValueError("a plain token has no key")
        key = token.kit.key(iv)
        with self._lock:
            _keep(self._keys, (token.number, iv), key, _MOST_KEYS)
        return key

    def entry(
        self,
        token: Token,
        row: FileRow,
        birth: Birth | None = None,
        *,
        is_new: bool = False,
        element: str | None = None,
    ) -> Listed:
        """Return the list entry of a file for a token. The first call for each file can take milliseconds.

        A token of sc2 needs the file's `birth`. A birth that `is_new` was made from this very row. `element` is the id,
        if the caller knows it.
        """
        if birth is not None:
            return _vault_entry(row, birth, is_new=is_new, element=element)
        if token.held is not None:
            raise ValueError("a token of sc2 lists births")
        element = element_of(token, row.path) if element is None else element
        size, _ = identity_parts(row.identity)
        form = form_json(row)
        if token.kit is not None:
            form = envelope(self._sealed_form(token, element, form))
            size = sealed_size(size)
        is_moving = row.restless_s is not None
        return Listed(
            type=TYPE,
            id=element,
            date=row.date or 0,
            tz=ZONE,
            form=form,
            size=None if is_moving else size,
            etag=None if is_moving else self.etag(token, element, row.nonce),
        )

    def _sealed_form(self, token: Token, element: str, form: bytes) -> str:
        """Return the sealed form. The IV depends on the form, so the same form always gives the same text."""
        if token.kit is None:
            raise ValueError("a plain token has no key")
        iv = form_iv(token.iv_key, self.source, token.id, element, form)
        if token.kit.rounds <= _CHEAP_ROUNDS:
            return seal_form(form, token.kit, iv)
        with self._lock:
            text = self._forms.get((token.number, iv))
        if text is None:
            text = seal_form(form, token.kit, iv)
            with self._lock:
                _keep(self._forms, (token.number, iv), text, _MOST_FORMS)
        return text


def seals_quickly(token: Token) -> bool:
    """Whether sealing a form takes microseconds. A passphrase that a person chose usually takes many rounds."""
    return token.kit is None or token.kit.rounds <= _CHEAP_ROUNDS


def element_of(token: Token, path: bytes) -> str:
    """Return the id of a file for a token. It is stable; an encrypted token's ids reveal nothing to others."""
    if token.held is not None:
        return token.held.vault.element(path).hex()
    if token.kit is None:
        return hashlib.sha256(path).hexdigest()
    return element_id(token.stored_salt, path, token.kit.digest)


def _vault_entry(row: FileRow, birth: Birth, *, is_new: bool, element: str | None) -> Listed:
    """Return the list entry of a file for a token of sc2. After a mere chmod, its form is newer than its object."""
    text, header = birth.list_form(row, is_new=is_new, element=None if element is None else bytes.fromhex(element))
    is_moving = row.restless_s is not None
    return Listed(
        type=TYPE,
        id=header.element_id,
        date=row.date or 0,
        tz=ZONE,
        form=envelope(text),
        size=None if is_moving else birth.size,
        etag=None if is_moving else header.etag,
    )


def envelope(sealed: str) -> bytes:
    """Return the canonical form of an encrypted token, given the sealed form in base64."""
    return b'{"encrypted":"' + sealed.encode("ascii") + b'"}'


def mark_of(element: str) -> bytes | None:
    """Return the 16 bytes that stand for an id in the database, or None if this cannot be an id."""
    try:
        raw = bytes.fromhex(element)
    except ValueError:
        return None
    return raw[:MARK_BYTES] if len(raw) in {32, 64} and raw.hex() == element else None


def form_json(row: FileRow) -> bytes:
    """Return the form of a file as JSON: the old server's fields, and those that a restore needs."""
    size, mtime_ns = identity_parts(row.identity)
    form = {
        "backUrl": "",
        "fileOverwrite": False,
        "tags": [],
        "password": "",
        "public": False,
        "fileName": row.path.decode("utf-8", "backslashreplace"),
        "stripInvalidCharacters": False,
        "path": b64encode(row.path).decode(),
        # Most JSON readers round numbers above 2^53, so this one is text.
        "mtime_ns": str(mtime_ns),
        "mode": row.mode,
    }
    if row.restless_s is None:
        form["size"] = size
    else:
        form["restless"] = True
    if row.sha256 is not None:
        form["sha256"] = row.sha256.hex()
    return canonical_json(form)


def _keep(cache: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Keep a value, and drop the oldest ones beyond `most`."""
    cache[key] = value
    while len(cache) > most:
        cache.popitem(last=False)
