"""What everybody can read in a form of `sc2`: the clear header that names vault, element and version.

It proves nothing by itself. But an entry, a vault and a content that do not fit to it are not what they say. Pure.
"""

from __future__ import annotations

import re
from base64 import b64decode
from functools import lru_cache
from typing import Any, Final

from kropot.sc2.layout import (
    BOUND_BYTES,
    ETAG_BYTES,
    HEADER_BYTES,
    LIST_BEGINNING,
    VAULT_BYTES,
    ObjectHeader,
    list_form_bytes,
    parse_header,
)
from kropot.sc2.refused import RefusedError

_HEAD: Final = b'{"encrypted":"'
_END: Final = b'"}'
_HEADER_TEXT: Final = HEADER_BYTES // 3 * 4
_BEGINNING: Final = _HEAD + LIST_BEGINNING.encode()
_VAULT: Final = re.compile(rf"[0-9a-f]{{{2 * VAULT_BYTES}}}")


def sealed_header(form: bytes) -> ObjectHeader | None:
    """Return the clear header in a canonical form of `sc2`, None for every other form."""
    if not form.startswith(_BEGINNING):
        return None
    try:
        return _read(form)
    except RefusedError:
        # `contradiction` keeps such a form out of lists. A ledger of before may have one: it is like any other there.
        return None


def header_bytes(form: bytes) -> bytes | None:
    """Return the 144 bytes of the clear header in a canonical form of `sc2`, None for every other form.

    They are not looked at: the form is one that was listed, so `contradiction` has read it.
    """
    if not form.startswith(_BEGINNING):
        return None
    return b64decode(form[len(_HEAD) : len(_HEAD) + _HEADER_TEXT])


def etag_of(header: bytes) -> str:
    """Return the entity tag of the object with this header, as `ObjectHeader.etag` does."""
    return f'"{header[BOUND_BYTES : BOUND_BYTES + ETAG_BYTES].hex()}"'


def contradiction(form: bytes, id_: str, etag: str | None) -> str | None:
    """Return why an entry's form is none, or is of another element or content than the entry; None if it is fine."""
    if not form.startswith(_BEGINNING):
        return None
    try:
        header = _read(form)
    except RefusedError:
        return "bad_form"
    return None if id_ == header.element_id and etag in {None, header.etag} else "other_form"


def vault_of(form: bytes) -> bytes | None:
    """Return the vault (16 bytes) that an entry's form names, None if it is not a form of `sc2`."""
    header = sealed_header(form)
    return None if header is None else header.vault


def is_same_content(one: bytes, other: bytes) -> bool | None:
    """Whether two forms name the same version of the same element, None unless both are of `sc2`."""
    before, after = sealed_header(one), sealed_header(other)
    if before is None or after is None:
        return None
    return _content(before) == _content(after)


def differs(found: ObjectHeader, expected: ObjectHeader) -> str | None:
    """Return how an object's header differs from the one in the list's form, as a stable word; None if it does not.

    "other_version" is another state of the same element: it may have changed since it was listed. "other_object" is
    something else.
    """
    if found == expected:
        return None
    is_same_element = _element(found) == _element(expected)
    return "other_version" if is_same_element and found.etag != expected.etag else "other_object"


def parse_vault(value: Any) -> bytes | None:
    """Return the vault's id (16 bytes) that a list's header names, None if it names none. Raises: ValueError."""
    if value is None:
        return None
    if type(value) is not str or not _VAULT.fullmatch(value):
        raise ValueError(value)
    return bytes.fromhex(value)


@lru_cache(maxsize=1)
def _read(form: bytes) -> ObjectHeader:
    """Return the header in a form. Raises: RefusedError. Cached, because an entry is asked for it several times."""
    return parse_header(list_form_bytes(form[len(_HEAD) : -len(_END)].decode("latin-1")))


def _element(header: ObjectHeader) -> tuple[bytes, bytes, bytes]:
    return header.vault, header.source, header.element


def _content(header: ObjectHeader) -> tuple[bytes, bytes, bytes, bytes]:
    return header.vault, header.source, header.element, header.version
