"""What an alarm is."""

from __future__ import annotations

from msgspec import Struct


class Alarm(Struct, frozen=True, kw_only=True):
    """A state that a person must answer: its stable name, the source or None, a message, and since when."""

    name: str
    source: bytes | None
    text: str
    since_us: int | None = None
