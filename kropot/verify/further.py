"""Verify a further storage: its segments, and every object that events up to its cursor name; and repair it.

Nothing is recorded in the ledger, because the ledger says what the first storage has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kropot.durable.errors import StorageError
from kropot.errors import KropotError, LockedError
from kropot.further.catching_up import CatchingUp
from kropot.further.healing import HEALER, heal
from kropot.objects.bulk.reading import BUFFER, ReadRequest, read_object
from kropot.objects.opening import open_store
from kropot.objects.stores.address import shown_storage
from kropot.objects.stores.copying import StorageCopy, StorageCopyReport
from kropot.objects.stores.packs import pack_key
from kropot.verify.copies import CopyAudit
from kropot.verify.reader import reader_of
from kropot.verify.segments import SegmentAudit
from ledger.audit import Finding
from ledger.errors import LedgerError, LedgerUnavailableError
from ledger.rows import SOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.further.joining import Further, Surroundings
    from kropot.objects.store import ObjectStore
    from kropot.objects.stores.address import StorageAddress
    from kropot.verify.copies import ObjectReport
    from kropot.verify.findings import Summary
    from kropot.verify.scope import Scope
    from kropot.verify.world import World
    from ledger.audit import LogAudit
    from ledger.log import Ledger

_FIRST = b"\0" * 32
_LAST = b"\xff" * 32
_HINT = "the first storage is not affected: `kropotcli verify --repair --also-store` with this address heals it"


class FurtherAudit:
    """Checks one further storage. `trouble` is why that failed, None if it did not."""

    def __init__(
        self,
        ledger: Ledger,
        surroundings: Surroundings,
        address: StorageAddress,
        *,
        scope: Scope,
        world: World,
        summary: Summary,
        ends: Callable[[], bool],
    ) -> None:
        """Open it, and read the ends of its segments, before the ledger is read."""
        self._ledger = ledger
        self._surroundings = surroundings
        self._address = address
        self._scope = scope
        self._world = world
        self._summary = summary
        self._ends = ends
        self._further: Further | None = None
        self._segments: SegmentAudit | None = None
        self._mended: set[bytes] = set()
        self._healer: ObjectStore | None = None
        self.trouble: KropotError | None = None
        try:
            self._further = surroundings.visit(ledger, address)
            if scope.repair:
                self._catch_up(self._further)
            self._segments = SegmentAudit(self._further.storage.segments())
        except KropotError as error:
            self.trouble = error

    @property
    def sizes(self) -> set[int]:
        """The sizes at which the comparison needs the tree's root."""
        return set() if self._segments is None else self._segments.sizes

    def findings(self, log: LogAudit, *, deep: bool) -> Iterator[Finding]:
        """Yield what is wrong. With `deep`, the segments' events are read. Raises: LedgerUnavailableError."""
        shown = shown_storage(self._address)
        if self._further is None or self._segments is None:
            self._summary.miss(f"the further storage {shown}: {self.trouble}")
            return
        objects = self._further.objects(self._ledger)
        audit = CopyAudit(self._ledger, reader_of(objects, self._ledger, self._scope, self._world, self._ends))
        errors = self._summary.errors
        try:
            for finding in self._segments.compare(log, self._ledger, deep=deep):
                yield replace(finding, hint=finding.hint and f"further storage {shown}: {finding.hint}")
            for reports in audit.walk(_FIRST, _LAST):
                for report in reports:
                    yield from self._findings_of(report, objects, shown)
        except LedgerUnavailableError:
            raise
        except (StorageError, LedgerError) as error:
            self.trouble = error if isinstance(error, StorageError) else None
            self._summary.miss(f"the further storage {shown}: not all was checked ({error})")
        finally:
            audit.close()
            objects.close()
            if self._healer is not None:
                self._healer.close()
            self._further.files.close()
        if audit.read_to != _LAST and self.trouble is None:
            self._summary.miss(f"the further storage {shown}: it was not read completely")
        self._summary.covered.setdefault("further", {})[shown] = self._covered(audit, self._summary.errors - errors)

    # --- helpers ---

    def _covered(self, audit: CopyAudit, bad: int) -> dict[str, Any]:
        return {
            "objects": audit.objects,
            "bytes": audit.bytes,
            "findings": bad,
            "position": 0 if self._further is None else self._further.row.position,
            "segments_to": 0 if self._segments is None else self._segments.reach,
        }

    def _findings_of(self, report: ObjectReport, objects: ObjectStore, shown: str) -> Iterator[Finding]:
        cursor = 0 if self._further is None else self._further.row.position
        due = [row for row in report.copies if row.state == SOUND and row.position <= cursor]
        if report.state not in {"damaged", "lost", "unreadable"} or not due:
            return
        request = ReadRequest(report.sha256, due[0].size)
        wrong = self._wrong(report, request, objects)
        if wrong is None and report.pack is None:
            return  # it moved from a file into a pack while its folder was read
        sha256 = report.sha256.hex()
        finding = Finding(
            kind=f"further_{report.state}",
            severity="note" if wrong is None else "error",
            detail=f"in {shown}: {report.detail if wrong is None else wrong[2]}"
            + ("; another place there has a sound copy of it" if wrong is None else ""),
            hint=_HINT,
            object=sha256,
            pack=None if report.pack is None else report.pack.hex(),
            position=due[0].position,
        )
        yield finding
        if not self._scope.repair:
            return
        try:
            is_repaired = self._is_repaired(report, request, objects)
        except StorageError as error:
            yield replace(finding, kind="not_repaired", severity="note", detail=str(error), hint="")
            return
        if is_repaired and wrong is not None:
            self._summary.repaired += 1
        if is_repaired:
            yield replace(
                finding,
                kind="repaired_copy",
                severity="note",
                detail=f"healed in {shown} from the first storage",
                hint="",
            )
        elif wrong is not None:
            detail = "the first storage has no sound copy of it either"
            yield replace(finding, kind="not_repaired", severity="note", detail=detail, hint="")

    def _wrong(self, report: ObjectReport, request: ReadRequest, objects: ObjectStore) -> tuple[bytes, str, str] | None:
        """Look again: return what is wrong with the object, None if it is sound in any place there."""
        if not self._scope.quick:
            return self._read(objects, request)
        return None if objects.size(request.sha256) == request.size else (report.sha256, report.state, report.detail)

    def _is_repaired(self, report: ObjectReport, request: ReadRequest, objects: ObjectStore) -> bool:
        """Write the pack again from the first storage if it is sound there, else the object into a file of its own."""
        if report.pack is not None:
            self._mend_pack(report.pack)
            if self._read(objects, request) is None:
                return True
        first = open_store(self._surroundings.first, HEALER, ca_file=self._surroundings.ca_file)
        source = first.objects(places=self._ledger.places)
        try:
            if self._read(source, request) is not None:
                return False
            # Do not use the ledger's places: they are, and remain, those of the first storage.
            if self._healer is None:
                healer = open_store(self._address, HEALER, ca_file=self._surroundings.ca_file)
                self._healer = healer.objects()
            if report.pack is None and self._healer.size(request.sha256) is not None:
                self._healer.set_aside(request.sha256)
            heal(request.sha256, request.size, source, self._healer)
        finally:
            source.close()
        return self._read(objects, request) is None

    def _mend_pack(self, name: bytes) -> None:
        if name in self._mended or self._further is None:
            return
        self._mended.add(name)
        source = self._surroundings.files_of_first()
        try:
            copier = StorageCopy(
                source, self._further.files, verify=True, only_sound=True, progress=lambda _files, _bytes: None
            )
            copier.these([pack_key(name)], StorageCopyReport())
        finally:
            source.close()

    def _catch_up(self, further: Further) -> None:
        source = self._surroundings.files_of_first()
        try:
            CatchingUp(self._ledger, source, further, stopped=self._ends).run()
        except LockedError:
            return  # a collector is already doing it
        finally:
            source.close()

    def _read(self, objects: ObjectStore, request: ReadRequest) -> tuple[bytes, str, str] | None:
        return read_object(objects, request, memoryview(bytearray(BUFFER)))
