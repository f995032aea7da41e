"""The history that a restore relies on: every event that it uses is compared with the tree of all events.

The headers of all events are read once, and their tree is computed here. So nothing relies on what a database says
about its own tree. Each event that is used must then be in that tree, must be the last of its stream, and must have the
payload that its header commits to. A signed checkpoint, or what a kit remembers, shows whether it is the true tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from kropot.errors import IntegrityError
from kropot.replay.fold import pages
from kropot.restore.fingerprints import Fingerprints
from kropot.restore.last_events import MARK, LastEvents, Leaves
from ledger.append import source_key
from ledger.codec import decode_header, leaf_hash, payload_digest, stream_digest
from ledger.errors import LedgerError
from ledger.events import FACTS, CopyStored, ElementFact, PayloadErased, RemoteCopied
from ledger.keeping import keeping_key
from ledger.merkle import Frontier
from ledger.retention import LastCopyReleased, ReleaseWithdrawn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from kropot.replay.copies import HeldCopy
    from ledger.codec import Header
    from ledger.log import Ledger
    from ledger.rows import StoredEvent

_PAGE = 4096
_HEADER = 9
"""The index of the header in an event's row."""

_ERASURE = PayloadErased.TYPE.encode()
_STORES = {
    CopyStored.TYPE.encode(): True,
    RemoteCopied.TYPE.encode(): True,
    ReleaseWithdrawn.TYPE.encode(): True,
    LastCopyReleased.TYPE.encode(): False,
}
_DIGEST = 32
_LONG = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""How many bytes a number takes in msgpack, by its first byte. Others take one."""


class AlteredError(IntegrityError):
    """An event is not the one that was recorded."""


def headers_of(ledger: Ledger, size: int, *, after: int = 0) -> Iterator[bytes]:
    """Yield the stored headers of the events after position `after`, up to `size`. It ends early if one is missing."""
    at = after
    while at < size:
        page = ledger.log.page(at, size, _PAGE)
        for row in page:
            if type(row[_HEADER]) is not bytes or row[0] != at + 1:
                return
            yield row[_HEADER]
            at += 1
        if not page:
            return


class History:
    """The tree of the events, and the last event of each stream. Memory stays flat: both are in temporary files.

    `roots` has the tree's root at each size in `marks` that the history reaches.
    """

    def __init__(self, headers: Iterable[bytes], *, until: int, marks: Collection[int] = ()) -> None:
        """Read all headers. The state in question is that of the first `until` events. Raises: OSError (disk full)."""
        self.until = until
        self.tree = Frontier()
        self.roots: dict[int, bytes] = {}
        self._leaves = Leaves()
        self._last = LastEvents()
        self._erased = Fingerprints()
        self._is_whole = False
        self._read(headers, until, {each for each in marks if each > 0})

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the temporary files."""
        self._leaves.close()
        self._last.close()
        self._erased.close()

    @property
    def size(self) -> int:
        """The number of events."""
        return self.tree.size

    def judged(self, helds: Iterable[HeldCopy], salts: Mapping[bytes, bytes]) -> Iterator[HeldCopy]:
        """Yield the copies without their events. Those that come from altered events say so in `refused`.

        `salts` are the salts of the sources, by their ids.
        """
        for held in helds:
            salt = salts.get(held.key.source)
            try:
                if held.refused is not None:
                    raise AlteredError(held.refused)  # noqa: TRY301 -- one way for all of them
                if salt is None:
                    raise AlteredError("what the ledger says about its source differs from what was recorded")  # noqa: TRY301 -- one way for all of them
                self._judge(held, salt)
            except AlteredError as error:
                yield held.judged(str(error))
            else:
                yield held.judged(None)
        self._is_whole = True

    def hidden(self, ledger: Ledger) -> int:
        """Return how many elements of this history were neither shown nor erased.

        It is 0 until `judged` has yielded all copies.
        """
        unseen = (at for mark, at, _ in self._last.unseen() if mark not in self._erased) if self._is_whole else ()
        return sum(_is_element(event) for page in pages(unseen, _PAGE) for event in ledger.log.events_at(sorted(page)))

    def left_out(self) -> int:
        """Return how many elements with a copy were neither shown nor erased. This needs no ledger."""
        unseen = self._last.unseen() if self._is_whole else ()
        return sum(is_stored and mark not in self._erased for mark, _, is_stored in unseen)

    def proved(self, event: StoredEvent) -> Header:
        """Return the header of an event that is in the tree, as `header_of` does. Raises: AlteredError."""
        if not self._leaves.has(event.seq, leaf_hash(event.header)):
            raise AlteredError(f"event {event.seq} is not in the ledger's history")
        return header_of(event)

    def has(self, event: StoredEvent) -> bool:
        """Return whether this is an event of the history."""
        try:
            self.proved(event)
        except AlteredError:
            return False
        return True

    def vouches(self, ledger: Ledger, source: bytes, salt: bytes) -> bool:
        """Return whether the events of this history say the same about a source as the ledger does."""
        for key in (source_key(source), keeping_key(source)):
            digest = stream_digest(salt, key)
            events = ledger.log.stream_events(key.stored, newest_first=True)
            last = next((event for event in events if event.seq <= self.until), None)
            if self._last.get(digest) != (None if last is None else last.seq):
                return False
            if last is not None and not (self.has(last) and header_of(last).stream_digest == digest):
                return False
        return True

    # --- helpers ---

    def _read(self, headers: Iterable[bytes], until: int, marks: set[int]) -> None:
        leaves: list[bytes] = []
        for at, header in enumerate(headers, 1):
            leaf = leaf_hash(header)
            leaves.append(leaf)
            self._leaves.add(leaf)
            digest, kind = _stream_and_type(header)
            if at <= until:
                self._last.put(digest, at, is_stored=_STORES.get(kind))
            if kind == _ERASURE:
                self._erased.add(digest[:MARK])
            if at in marks or len(leaves) == _PAGE:
                self.tree, leaves = self.tree.extend(leaves), []
            if at in marks:
                self.roots[at] = self.tree.root
        self.tree = self.tree.extend(leaves)

    def _judge(self, held: HeldCopy, salt: bytes) -> None:
        if not held.events:
            raise AlteredError("no event says what it is")
        digest = stream_digest(salt, held.key)
        self._last.see(digest)
        for event in held.events:
            if self.proved(event).stream_digest != digest:
                raise AlteredError(f"event {event.seq} is about another element")
        last = self._last.get(digest)
        if last != held.events[0].seq:
            raise AlteredError(f"it differs from the last event about it (event {last})")


def header_of(event: StoredEvent) -> Header:
    """Compare an event's columns and payload with those that its header commits to, and return the header.

    Raises: AlteredError.
    """
    where = f"event {event.seq}"
    try:
        header = decode_header(event.header)
    except LedgerError as error:
        raise AlteredError(f"{where} cannot be read ({error})") from None
    if header.seq != event.seq:
        raise AlteredError(f"{where} is at a different position than its header says")
    if (header.type, header.schema_version, header.flags) != (event.type, event.schema_version, event.flags):
        raise AlteredError(f"{where} has a different type than its header says")
    if event.payload is None or event.nonce is None:
        raise AlteredError(f"the payload of {where} is gone, but no erasure was recorded")
    if payload_digest(event.nonce, event.payload) != header.payload_digest:
        raise AlteredError(f"the payload of {where} is not the one that was recorded")
    return header


def refuse_altered(held: HeldCopy, salt: bytes | None) -> None:
    """Compare the events of a single copy with their headers, without the tree that they belong to.

    Raises: AlteredError.
    """
    if held.refused is not None:
        raise AlteredError(held.refused)
    for event in held.events:
        if salt is None or header_of(event).stream_digest != stream_digest(salt, held.key):
            raise AlteredError(f"event {event.seq} is about another element")


def _stream_and_type(header: bytes) -> tuple[bytes, bytes]:
    """Return the stream's digest and the type's name in a header. The rest is not decoded: there are millions.

    For a malformed header the values mean nothing, and no event that is used has them.
    """
    digest = 4 + _width(header, 2)
    version = digest + _DIGEST
    kind = version + _width(header, version)
    length = header[kind] & 0x1F if kind < len(header) else 0
    return header[digest:version].ljust(_DIGEST, b"\xff"), header[kind + 1 : kind + 1 + length]


def _width(header: bytes, at: int) -> int:
    """Return how many bytes the number at this place has."""
    return _LONG.get(header[at], 1) if at < len(header) else 1


def _is_element(event: StoredEvent) -> bool:
    try:
        kind = FACTS.get(decode_header(event.header).type)
    except LedgerError:
        return False
    return kind is not None and issubclass(kind, ElementFact)


def salts_of(ledger: Ledger) -> dict[bytes, bytes]:
    """Return the salts of all sources, by their ids."""
    return {id_: entry.source.salt for id_, entry in ledger.sources().items()}
