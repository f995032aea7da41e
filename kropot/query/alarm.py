"""What an alarm is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A state that a person must answer: its stable name, the source or None, a message, and since when."""

    name: str
    source: bytes | None
    text: str
    since_us: int | None = None
