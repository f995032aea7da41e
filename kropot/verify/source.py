"""Compare a full listing of the source with the projection. This downloads no contents.

Some servers, such as the gateway, also list sizes and content tags. These prove that a copy holds the content that the
source has now.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

from kropot.bitmap import Bitmap
from kropot.collect.decide.plan import known_dates, observe
from kropot.errors import Exit, KropotError, ServerRefusedError
from kropot.lister.conversation import ListingFailedError, NewEntries, PageRequest, Trouble
from kropot.lister.drain import Range, drain
from kropot.securecopy.client import ServerTroubleError
from kropot.securecopy.trouble import sentence
from kropot.wording import SECOND_US, moment
from ledger.audit import Finding
from ledger.events import Element, RemoteObserved, RemoteReappeared, StreamKey
from ledger.vaults import naming_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kropot.lister.conversation import ListingResult
    from kropot.securecopy.wire import Listed, Page
    from ledger.events import Source
    from ledger.log import Ledger

BEHIND = 2 * 3600
"""Seconds. Windows no longer list an element whose date is this much older than the newest listed date."""

_PAGE = 500
_PRESENT = ("current", "pending", "damaged", "lost")
_NEXT = "the next `kropotcli collect` records it"
_FULL = "a window listing does not reach that far back: run `kropotcli collect --full`"


class OtherVaultError(KropotError):
    """The list names another vault than the source has, or none: it is the list of something else."""

    exit_code = Exit.FINDINGS

    def __init__(self) -> None:
        """Say so."""
        super().__init__(f"the source cannot be compared: {sentence('other_vault')}")


class Lists(Protocol):
    """The part of a client that the audit needs."""

    def list(self, since: str | None, limit: int) -> Page:
        """Return a page. Raises: ServerRefusedError, ServerTroubleError."""
        ...


class SourceAudit:
    """One full listing of one source. The counts are complete after `findings` was read to its end.

    `listed` counts the elements that the source has. `agreeing` counts those that are the same in the projection.
    `proved` counts those of them whose copy has the size and content tag that the server lists. `trouble` is the error
    that kept the source from being listed, None if there was none.
    """

    def __init__(self, ledger: Ledger, source_id: bytes, client: Lists) -> None:
        """Take the ledger and the client. This does not ask the source yet."""
        self._ledger = ledger
        self._id = source_id
        self._client = client
        self._vault: bytes | None = None
        self._seen = Bitmap()
        self._unknown_before: set[StreamKey] = set()
        self.agreeing = 0
        self.proved = 0
        self.unknown = 0
        self.trouble: KropotError | None = None

    @property
    def listed(self) -> int:
        """How many elements the source has."""
        return self._seen.count + self.unknown

    def findings(self) -> Iterator[Finding]:
        """Yield the differences: first for each listed element, then for elements that the source no longer has."""
        source = self._ledger.sources()[self._id].source
        self._vault = naming_of(self._ledger.log, self._id).vault
        talk = drain(Range(zone=source.zone))
        answer: Page | Trouble | None = None
        try:
            while True:
                said = talk.send(answer)
                answer = None
                match said:
                    case PageRequest():
                        answer = self._ask(said)
                    case NewEntries():
                        yield from self._compare(said, source)
        except StopIteration as stop:
            drained: ListingResult = stop.value
        except ListingFailedError as error:
            self.trouble = KropotError(f"the source cannot be listed now ({error.reason}): verify it again later")
            return
        except (ServerRefusedError, OtherVaultError) as error:
            self.trouble = error
            return
        yield from self._unlisted(drained)

    def _ask(self, ask: PageRequest) -> Page | Trouble:
        try:
            page = self._client.list(ask.since, ask.limit)
        except ServerTroubleError as error:
            return Trouble(reason=error.reason, status=error.status)
        if page.vault != self._vault:
            raise OtherVaultError
        return page

    def _compare(self, brought: NewEntries, source: Source) -> Iterator[Finding]:
        for row in brought.rejected:
            detail = f"line {row.line} of a page of the list is not an entry: {row.why}"
            yield Finding(kind="unreadable_entry", severity="error", detail=detail, source=self._id.hex())
        keys = [StreamKey(source=self._id, kind=listed.type, id=listed.id) for listed in brought.entries]
        entries = self._ledger.entries(set(keys))
        dates = known_dates(source)
        horizon = (source.cursor or 0) - BEHIND
        unknown = set[StreamKey]()
        for key, listed in zip(keys, brought.entries, strict=True):
            entry = entries.get(key)
            element = None if entry is None else entry.element
            if entry is None:
                if key in self._unknown_before:
                    continue  # listed twice, on two neighbouring pages
                unknown.add(key)
                self.unknown += 1
            elif not self._seen.add(entry.stream):
                continue  # as above
            fact = observe(element, listed, dates)
            if fact is None and element is not None:
                yield from self._agree(key, element, listed)
                continue
            behind = listed.date <= horizon
            yield Finding(
                kind="unknown_here"
                if isinstance(fact, RemoteObserved)
                else "reappeared_at_source"
                if isinstance(fact, RemoteReappeared)
                else "rewritten_date",
                severity="error" if behind else "note",
                detail=_difference(element, listed),
                hint=_FULL if behind else _NEXT,
                source=self._id.hex(),
                element=key.id,
                position=None if entry is None else entry.position,
            )
        self._unknown_before = unknown

    def _agree(self, key: StreamKey, element: Element, listed: Listed) -> Iterator[Finding]:
        """Check an element that agrees: its copy must have the size that the server lists."""
        self.agreeing += 1
        if not element.is_current or element.copy is None or listed.size is None:
            return
        if element.copy.size != listed.size:
            yield Finding(
                kind="size_differs",
                severity="error",
                detail=f"the copy has {element.copy.size} bytes, but the source lists {listed.size}",
                hint="the source changed it without a new date, or sent only a part: check the file on the server",
                source=self._id.hex(),
                element=key.id,
                object=element.copy.sha256.hex(),
            )
        elif listed.etag is not None and listed.etag == element.etag:
            self.proved += 1

    def _unlisted(self, drained: ListingResult) -> Iterator[Finding]:
        entries = self._ledger.scan(source=self._id, states=_PRESENT)
        while page := list(islice(entries, _PAGE)):
            for entry in page:
                element = entry.element
                if element is None or not element.present or entry.stream in self._seen:
                    continue
                if any(first <= element.date <= last for first, last in drained.exempt):
                    continue
                yield Finding(
                    kind="vanished_at_source",
                    severity="note",
                    detail="the source no longer has it; its copies are kept",
                    hint="the next full listing records it",
                    source=self._id.hex(),
                    element=entry.key.id,
                    position=entry.position,
                )
        for second in drained.unlistable:
            detail = f"the server cannot list all elements dated {_day(second)}; copies of them are kept"
            hint = "this is the server's own error: report it to the person who runs the server"
            yield Finding(kind="unlistable_second", severity="error", detail=detail, hint=hint, source=self._id.hex())


def _difference(element: Element | None, listed: Listed) -> str:
    if element is None:
        return f"the source has it with the date {_day(listed.date)}, but the ledger does not know it"
    if not element.present:
        return f"the source has it again, with the date {_day(listed.date)}"
    if element.date != listed.date:
        return f"the source has the date {_day(listed.date)}, but the ledger has {_day(element.date)}"
    return "the source lists a different content under the same date"


def _day(second: int) -> str:
    return moment(second * SECOND_US)
