"""Offers files that never rest, such as a busy log, as is, so that some copy of them exists.

Such a copy shows a file in motion. Every download is sealed under its own nonce, the list gives neither size nor tag,
and the form says `restless`, so nobody mistakes the copy for a settled version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kropot.gateway.state import NewFile

if TYPE_CHECKING:
    from kropot.gateway.sources import ScannedFile
    from kropot.gateway.state import FileRow

RESTLESS_NS: Final = 600 * 1_000_000_000
"""How long a file may stay unsettled before it is offered as is."""

OFFER_EVERY_S: Final = 3600
"""How often such a file is offered again while it keeps changing."""

_MOST = 10_000


class Restless:
    """Remembers since when files have not rested, for at most 10,000 files."""

    def __init__(self, after_ns: int = RESTLESS_NS) -> None:
        """Offer files that have not rested for `after_ns`."""
        self._after_ns = after_ns
        self._since: dict[bytes, int] = {}
        self._met: set[bytes] = set()

    def begin_scan(self) -> None:
        """Forget the files that the last scan did not find unsettled."""
        self._since = {path: since for path, since in self._since.items() if path in self._met}
        self._met = set()

    def rests(self, path: bytes) -> None:
        """Note that a file has settled."""
        self._since.pop(path, None)
        self._met.discard(path)

    def is_offered(self, path: bytes, row: FileRow | None, now_ns: int) -> bool:
        """Whether to offer a file that a scan found unsettled, as it is now."""
        if path not in self._since and len(self._since) >= _MOST:
            return False
        since = self._since.setdefault(path, now_ns)
        self._met.add(path)
        if now_ns - since < self._after_ns:
            return False
        offered_s = None if row is None else row.restless_s
        return offered_s is None or now_ns // 1_000_000_000 - offered_s >= OFFER_EVERY_S

    @staticmethod
    def version(key: bytes, found: ScannedFile, row: FileRow | None, now_ns: int, nonce: bytes) -> NewFile:
        """Return what to record about a file that is offered as is."""
        return NewFile(
            id=None if row is None else row.id,
            key=key,
            path=found.path,
            identity=found.seen.identity,
            mode=found.seen.mode,
            nonce=nonce,
            sha256=None,
            old_date=None if row is None else row.date,
            restless_s=now_ns // 1_000_000_000,
        )
