"""What an audit has to tell: one type for the ledger's audit and for everything that builds on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ledger.events import StreamKey

Severity = Literal["error", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found: an "error" is not as it should be, a "note" is worth knowing.

    `kind` is a stable word. `element` is an element's id and `source` its source (hexadecimal), `object` the SHA-256
    of an object (hexadecimal), `position` the first bad position of the log; each is None where it does not apply.
    `hint` says what to do now; the ledger leaves it empty, since it knows no commands.
    """

    kind: str
    severity: Severity = "error"
    detail: str
    hint: str = ""
    source: str | None = None
    element: str | None = None
    object: str | None = None
    position: int | None = None


def finding_in(key: bytes | None, *, kind: str, detail: str, position: int | None = None) -> Finding:
    """Return the error in the stream of this stored key; it names the element if the key is an element's."""
    stream = None
    if key is not None:
        try:
            stream = StreamKey.parse(key)
        except UnicodeDecodeError:
            stream = None  # the key itself was tampered with; the position says where
    if stream is None or not stream.is_element:
        return Finding(kind=kind, detail=detail, position=position)
    return Finding(kind=kind, detail=detail, source=stream.source.hex(), element=stream.id, position=position)
