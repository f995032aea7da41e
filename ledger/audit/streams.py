"""The digests that name streams in headers: computed from the streams' keys, and kept for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.audit.rows import read_keys
from ledger.codec import keyed_digest
from ledger.events import MAX_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.stores import EventLog

_MOST = 10_000
_SOURCE = 16
_AT = b"@"


class StreamNames:
    """The names of streams by number: the `digests` of elements' streams, and every stream's key.

    They are kept for a while, because an element's observation and its copy are close together in the log.
    """

    def __init__(self) -> None:
        """Start without names."""
        self.digests: dict[int, bytes] = {}
        self._keys: dict[int, bytes | None] = {}

    def learn(self, log: EventLog, streams: set[int], salts: Mapping[bytes, bytes]) -> None:
        """Learn the names of these streams whose sources' salts are known. `salts` are by source id."""
        if len(self._keys) > _MOST:
            self._keys.clear()
            self.digests.clear()
        found = read_keys(log, streams - self.digests.keys())
        self._keys.update(found)
        # The fast path never recognises events about the ledger's own subjects.
        self.digests.update(
            {
                stream: keyed_digest(salt, key[_SOURCE:])
                for stream, key in found.items()
                if key is not None
                and len(key) <= MAX_KEY_BYTES
                and (salt := salts.get(key[:_SOURCE])) is not None
                and key[_SOURCE : _SOURCE + 1] != _AT
            }
        )

    def find(self, log: EventLog, stream: int) -> tuple[bytes | None, bool]:
        """Return a stream's key (None if it is erased), and whether the stream exists."""
        if stream not in self._keys:
            self._keys.update(read_keys(log, (stream,)))
        return self._keys.get(stream), stream in self._keys
