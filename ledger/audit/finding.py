"""The finding of an audit: one type for the ledger's audit and everything that builds on it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ledger.errors import DamagedRowError
from ledger.events import StreamKey

Severity = Literal["error", "note"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that an audit found. An "error" is wrong; a "note" is worth knowing.

    `kind` is a stable word. `element` is an element's id and `source` its source (hexadecimal). `object` is the SHA-256
    of an object, and `pack` the name of a pack (hexadecimal). `position` is the first bad position of the log. Each is
    None if it does not apply. `hint` says what to do now. The ledger leaves it empty, because it does not know the
    commands.
    """

    kind: str
    severity: Severity = "error"
    detail: str
    hint: str = ""
    source: str | None = None
    element: str | None = None
    object: str | None = None
    pack: str | None = None
    position: int | None = None


def finding_in(key: bytes | None, *, kind: str, detail: str, position: int | None = None) -> Finding:
    """Return an error in the stream with this stored key. It names the element if the key is an element's."""
    stream = None
    if key is not None:
        try:
            stream = StreamKey.parse(key)
        except DamagedRowError:
            stream = None  # someone tampered with the key itself; the position says where
    if stream is None or not stream.is_element:
        return Finding(kind=kind, detail=detail, position=position)
    return Finding(kind=kind, detail=detail, source=stream.source.hex(), element=stream.id, position=position)
