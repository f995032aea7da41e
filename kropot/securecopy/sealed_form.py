"""What anybody can read in a form of `sc2`: the clear header that names vault, element and version.

It proves nothing by itself. But an entry, a vault and a content that do not match it are not what they say. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from kropot.sc2.layout import (
    BOUND_BYTES,
    ELEMENT_BYTES,
    ETAG_BYTES,
    HEADER_BEGINNING,
    HEADER_BYTES,
    LIST_BEGINNING,
    SOURCE_BYTES,
    VAULT_BYTES,
    ObjectHeader,
    list_form_bytes,
    parse_header,
)
from kropot.sc2.refused import RefusedError

_HEAD: Final = b'{"encrypted":"'
_END: Final = b'"}'
_BEGINNING: Final = _HEAD + LIST_BEGINNING.encode()
_VAULT_FROM: Final = len(HEADER_BEGINNING)
_ELEMENT_FROM: Final = _VAULT_FROM + VAULT_BYTES + SOURCE_BYTES
_VAULT_AT: Final = slice(_VAULT_FROM, _VAULT_FROM + VAULT_BYTES)
_ELEMENT_AT: Final = slice(_ELEMENT_FROM, _ELEMENT_FROM + ELEMENT_BYTES)
_ETAG_AT: Final = slice(BOUND_BYTES, BOUND_BYTES + ETAG_BYTES)
_VAULT: Final = re.compile(rf"[0-9a-f]{{{2 * VAULT_BYTES}}}")


def sealed_header(form: bytes) -> ObjectHeader | None:
    """Return the clear header in a canonical form of `sc2`, None for every other form."""
    if not form.startswith(_BEGINNING):
        return None
    try:
        return _read(form)
    except RefusedError:
        # `parse_page` keeps such a form out of lists. An older ledger can have one, where it is like any other.
        return None


def is_like_sealed(form: bytes) -> bool:
    """Return whether a canonical form begins as those of `sc2` do."""
    return form.startswith(_BEGINNING)


def clear_header(text: str) -> bytes:
    """Return the clear header (144 bytes) in the text of a sealed form of `sc2`, as a list shows it.

    Raises: RefusedError: it is not such a text, or this program cannot read its header.
    """
    header = list_form_bytes(text)[:HEADER_BYTES]
    if not header.startswith(HEADER_BEGINNING):
        # This raises, and says why.
        parse_header(header)
    return header


def vault_in(header: bytes) -> bytes:
    """Return the vault (16 bytes) that a clear header names."""
    return header[_VAULT_AT]


def element_in(header: bytes) -> str:
    """Return the id of the element that a clear header names, as `ObjectHeader.element_id` does."""
    return header[_ELEMENT_AT].hex()


def etag_in(header: bytes) -> str:
    """Return the entity tag of the object with this clear header, as `ObjectHeader.etag` does."""
    return f'"{header[_ETAG_AT].hex()}"'


def is_same_content(one: bytes, other: bytes) -> bool | None:
    """Return whether two forms name the same version of the same element, None unless both are of `sc2`."""
    before, after = sealed_header(one), sealed_header(other)
    if before is None or after is None:
        return None
    return _content(before) == _content(after)


def differs(found: ObjectHeader, expected: ObjectHeader) -> str | None:
    """Return how an object's header differs from the one in the list's form, as a stable word; None if it does not.

    "other_version" is another state of the same element: it might have changed since it was listed. "other_object" is
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
