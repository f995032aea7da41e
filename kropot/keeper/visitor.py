"""The visitors of a keeper, and what they may see. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Role(StrEnum):
    """What a token allows. Each role may also do what the ones before it may."""

    MONITOR = "monitor"
    AUDITOR = "auditor"
    OWNER = "owner"


_RANKS: Final = {role: rank for rank, role in enumerate(Role)}


class Visitor(Struct, frozen=True, kw_only=True):
    """The sender of a token: its number, role, label, and the sources (16 bytes each) it is bound to, None for all."""

    number: int
    role: Role
    label: str | None = None
    sources: frozenset[bytes] | None = None

    def may(self, role: Role) -> bool:
        """Whether the token allows what this role may do."""
        return _RANKS[self.role] >= _RANKS[role]

    def sees(self, source: bytes) -> bool:
        """Whether the token may see this source."""
        return self.sources is None or source in self.sources
