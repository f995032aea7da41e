"""Names of one file (hard links): the first one that is restored is written, and the others become links to it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kropot.durable.dirfd import Parts


@dataclass(slots=True)
class LinkGroup:
    """The names of one file. Hold `lock` while one of them is restored.

    `path` is the name that already exists, None while there is none. `sha256` is that of its content, None if unknown.
    """

    id: bytes
    lock: threading.Lock = field(default_factory=threading.Lock)
    path: Parts | None = None
    sha256: bytes | None = None


class LinkGroups:
    """The groups of files that come group by group. Only the last one is remembered, so memory stays flat."""

    def __init__(self) -> None:
        """Start with no group."""
        self._last: LinkGroup | None = None

    def of(self, group: bytes | None) -> LinkGroup | None:
        """Return the group with this id (16 bytes), None for a file with one name."""
        if group is None:
            return None
        if self._last is None or self._last.id != group:
            self._last = LinkGroup(group)
        return self._last
