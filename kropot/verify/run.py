"""A whole verification: ledger, projection, checkpoints, segments, copies and source, and a summary of all gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kropot.errors import ServerRefusedError
from kropot.objects.stores.address import shown_storage
from kropot.query.erasures import sum_of
from kropot.replay.check import SnapshotAudit
from kropot.replay.processes import in_processes
from kropot.storage_away import StorageAwayError, demand_objects
from kropot.verify.checkpoints import CheckpointAudit, Note
from kropot.verify.contents import CopyVerification
from kropot.verify.findings import REBUILD, Summary, with_hint
from kropot.verify.further import FurtherAudit
from kropot.verify.reach import reach_of
from kropot.verify.recording import Recorder
from kropot.verify.releases import ReleaseAudit
from kropot.verify.segments import SegmentAudit
from kropot.verify.source import SourceAudit
from kropot.verify.ways_out import Reach, way_out
from kropot.verify.world import World
from ledger.audit import Finding, IndexAudit, LogAudit
from ledger.errors import DamagedRowError, LedgerError, LedgerUnavailableError
from ledger.events import NO_SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kropot.errors import KropotError
    from kropot.objects.store import ObjectStore
    from kropot.verify.copy_findings import Case
    from kropot.verify.scope import Scope
    from kropot.verify.ways_out import Unrecorded
    from ledger.audit.fast.ranges import EventRange, RangeAudit, ReadRange
    from ledger.events import StreamKey
    from ledger.log import Ledger


class RefetchDone(Struct, frozen=True, kw_only=True):
    """How a repair's fetching ended: the source (16 bytes) that was asked, None if none was, and why not all came."""

    source: bytes | None = None
    reach: Reach = "open"
    why: str = "it was not fetched yet"


class Verification:
    """One run. `summary` is complete after `findings` was read to its end.

    `trouble` is the error that kept a requested part from being checked, None if there was none.
    """

    def __init__(self, ledger: Ledger, objects: ObjectStore, scope: Scope, world: World | None = None) -> None:
        """Start with nothing read. The time budget starts now."""
        self._ledger = ledger
        self._objects = objects
        self._scope = scope
        self._world = World() if world is None else world
        budget = scope.budget_s
        self._spent_at = None if budget is None else self._world.monotonic() + budget
        self._to_fetch: dict[StreamKey, Case] = {}
        self._reach: dict[bytes, Reach] = {}
        self.summary = Summary()
        self.trouble: KropotError | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield every finding, as soon as it is known.

        Raises:
            StorageError: if the storage cannot be listed.
            LedgerUnavailableError: if the database cannot be read.
        """
        for finding in self._parts():
            yield self.summary.count(finding)

    @property
    def is_fetch_due(self) -> bool:
        """Whether there are copies that a collector can fetch again."""
        return bool(self._to_fetch)

    def repaired(self, fetched: RefetchDone) -> Iterator[Finding]:
        """Yield the results for the copies that had to be fetched again. Call this whether or not a collector ran.

        `fetched` says which source was asked, and what kept it from giving everything.
        """
        for key, case in self._to_fetch.items():
            finding, _ = case.finding(None)
            entry = self._ledger.entries([key]).get(key)
            element = None if entry is None else entry.element
            copy = None if element is None or not element.is_current else element.copy
            if copy is not None and self._objects.size(copy.sha256) == copy.size:
                self.summary.repaired += 1
                detail = f"fetched again: the copy is {copy.sha256.hex()} ({copy.size} bytes)"
                yield replace(finding, kind="repaired_copy", severity="note", detail=detail, hint="")
                continue
            is_asked = key.source == fetched.source
            now = replace(
                case.copy,
                is_present=element is not None and element.present,
                reach=fetched.reach if is_asked else case.copy.reach,
                failure=None if element is None or element.failure is None else element.failure.reason,
                repairs=False,
            )
            why = fetched.why if is_asked or fetched.source is None else "this run's token belongs to another source"
            if now.failure is not None:
                why = f"fetching it fails ({now.failure})"
            elif not now.is_present:
                why = "the source no longer has it"
            yield replace(finding, kind="not_repaired", severity="note", detail=why, hint=way_out(now).value)

    # --- the parts ---

    def _parts(self) -> Iterator[Finding]:
        checkpoints = CheckpointAudit([*self._scope.against, *self._stored_notes()], self._scope.key)
        segments = None if self._scope.segments is None else SegmentAudit(self._scope.segments)
        further = self._further_audits()
        marks = checkpoints.sizes.union(*(each.sizes for each in further))
        marks |= set() if segments is None else segments.sizes
        log = LogAudit(
            self._ledger.log, root_sizes=marks, run_ranges=self._run_ranges, progress=self._world.progress.reached
        )
        yield from self._database()
        yield from self._log(log)
        has_errors = not self.summary.sound
        if has_errors:
            self.summary.miss("index: the projection was not compared, because the ledger has errors")
        else:
            yield from self._index(log)
            yield from self._snapshots(log)
        yield from self._checkpoints(checkpoints, log)
        yield from self._erasures(checkpoints, log)
        if not has_errors:
            yield from self._releases(checkpoints, log)
        if segments is not None:
            yield from self._segments(segments, log, has_errors=has_errors)
        # The source comes before the copies, because whether it answers decides what can be done about a bad copy.
        is_sound = self.summary.sound
        yield from self._source(has_errors=has_errors)
        try:
            yield from self._copies(log.head.position, is_sound=is_sound)
        except LedgerUnavailableError:
            raise
        except LedgerError as error:
            if is_sound:
                raise
            self.summary.miss(f"copies: not all were checked, because the ledger has errors ({error})")
        for each in further:
            yield from each.findings(log, deep=not (self._scope.quick or has_errors))
            self.trouble = self.trouble or each.trouble

    def _further_audits(self) -> list[FurtherAudit]:
        """Open the further storages before the ledger is read, so that their segments are not longer than it."""
        if self._scope.surroundings is None:
            return []
        known = self._scope.surroundings.known(self._ledger)
        unread = len({row.address for row in known} - set(map(shown_storage, self._scope.further)))
        if unread:
            self.summary.not_covered.append(
                f"further storages: {unread} were not read: read them with --also-store all"
            )
        return [
            FurtherAudit(
                self._ledger,
                self._scope.surroundings,
                address,
                scope=self._scope,
                world=self._world,
                summary=self.summary,
                ends=self._ends,
            )
            for address in self._scope.further
        ]

    def _ends(self) -> bool:
        is_spent = self._spent_at is not None and self._world.monotonic() >= self._spent_at
        return is_spent or self._world.stopped()

    def _run_ranges(self, read: ReadRange, ranges: Iterable[EventRange]) -> Iterator[RangeAudit | None]:
        """Read a long ledger on all processors."""
        return in_processes(lambda ledger, _, part: read(ledger.log, part), self._ledger, 0, ranges)

    def _database(self) -> Iterator[Finding]:
        """Ask the database first, because the audit reads through its indexes and trusts them."""
        self._world.progress.part("database", "table")
        for detail in self._ledger.database.damage():
            yield with_hint(Finding(kind="damaged_database", detail=detail))

    def _log(self, log: LogAudit) -> Iterator[Finding]:
        began = self._world.monotonic()
        self._world.progress.part("ledger", "event", count=log.head.position)
        yield from map(with_hint, log.findings())
        if log.unknown:
            detail = f"{log.unknown} events have types that this version does not know; their hashes are correct"
            hint = "a newer version wrote them: install it to read them"
            yield Finding(kind="unknown_events", severity="note", detail=detail, hint=hint)
        self.summary.covered["ledger"] = {
            "events": log.position,
            "root": log.frontier.root.hex(),
            "erased": log.erased,
            "unknown": log.unknown,
            "seconds": self._since(began),
        }

    def _elements(self) -> int | None:
        """Return how many elements the projection counts; None if it cannot be read, which is a finding of its own."""
        try:
            return sum(each.elements for each in self._ledger.tallies())
        except DamagedRowError:
            return None

    def _index(self, log: LogAudit) -> Iterator[Finding]:
        began = self._world.monotonic()
        self._world.progress.part("projection", "element", count=self._elements())
        index = IndexAudit(self._ledger.store, log, progress=self._world.progress.reached)
        errors = self.summary.errors
        try:
            yield from map(with_hint, index.findings())
        except LedgerUnavailableError:
            raise
        except LedgerError as error:
            yield Finding(kind="unreadable_index", severity="error", detail=str(error), hint=REBUILD)
        self.summary.covered["index"] = {
            "entries": index.rows,
            "state_digest": None,
            "state_digest_sd1": None if index.moved else index.digest,
            "moved": index.moved,
            "findings": self.summary.errors - errors,
            "seconds": self._since(began),
        }

    def _snapshots(self, log: LogAudit) -> Iterator[Finding]:
        """Compare the snapshots with the events. This also computes the state digest from scratch."""
        began = self._world.monotonic()
        self._world.progress.part("state", "event", count=log.position)
        audit = SnapshotAudit(self._ledger, log.position, progress=self._world.progress.reached)
        for found in audit.findings():
            yield Finding(
                kind="bad_snapshot",
                severity="error",
                detail=f"the snapshot of {found.kind} at position {found.position}: {found.why}",
                hint="drop the snapshots; you can make them again at any time: see `kropotcli snapshot --help`",
                position=found.position,
            )
        if not audit.has_moved:
            self.summary.covered["index"]["state_digest"] = audit.state.digest.text
        self.summary.covered["snapshots"] = {"compared": audit.compared, "seconds": self._since(began)}

    def _stored_notes(self) -> Iterator[Note]:
        for size, note in self._ledger.blobs.checkpoints():
            # A person who tampers with the database can put anything into a column.
            kept = str(note).encode(errors="replace")
            yield Note(f"the checkpoint of size {size} in the database", kept, size)

    def _checkpoints(self, checkpoints: CheckpointAudit, log: LogAudit) -> Iterator[Finding]:
        began = NO_SOURCE in log.learnt.salts
        for detail in self._ledger.blobs.checkpoint_faults():
            yield with_hint(Finding(kind="bad_checkpoint", detail=detail))
        yield from checkpoints.compare(log, self._ledger.identity().ledger_id if began else None)
        self.summary.covered["checkpoints"] = {
            "checked": checkpoints.checked,
            "given": len(self._scope.against),
            "signatures": checkpoints.key is not None,
            "sealed_to": checkpoints.sealed_to,
            "unsealed_tail": log.position - (checkpoints.sealed_to or 0),
        }
        if checkpoints.key is None and checkpoints.checked:
            checked = "1 checkpoint" if checkpoints.checked == 1 else f"{checkpoints.checked} checkpoints"
            gap = f"signatures of {checked}: give the key with --public-key to check them"
            self.summary.not_covered.append(gap)

    def _erasures(self, checkpoints: CheckpointAudit, log: LogAudit) -> Iterator[Finding]:
        """Name every erasure. One after the last verified checkpoint is an error: no person accepted it with the key.

        Older signers signed erasures without asking. Those come before the checkpoint, and are only named.
        """
        erased = sum_of(log.erasures)
        self.summary.covered["erasures"] = erased.json
        if erased.last is None:
            return
        hint = "compare this with the erasures that you know of; `kropotcli history ELEMENT` shows one element"
        yield Finding(kind="erased", severity="note", detail=str(erased), hint=hint)
        if checkpoints.key is None:
            gap = "erasures: give the key with --public-key to see which of them it did not accept"
            self.summary.not_covered.append(gap)
            return
        sealed_to = checkpoints.sealed_to or 0
        unsigned = sum_of(each for each in log.erasures if each.position > sealed_to)
        if unsigned.first is not None:
            yield Finding(
                kind="unsigned_erasure",
                severity="error",
                detail=f"the key did not accept what was erased here: {unsigned}",
                hint="if you asked for it, run `kropotcli checkpoint sign --accept-erasures POSITION` with the last "
                "position; if not, somebody is destroying this backup: keep the database, and make the ledger "
                "again from an earlier backup or storage path",
                position=unsigned.first.position,
            )

    def _releases(self, checkpoints: CheckpointAudit, log: LogAudit) -> Iterator[Finding]:
        """Decide every release again: one that no policy entails counts as a loss."""
        signed_from = min((each.checkpoint.size for each in checkpoints.sealed), default=None)
        audit = ReleaseAudit(self._ledger, log.position, key=checkpoints.key, signed_from=signed_from)
        try:
            yield from audit.findings()
        except LedgerUnavailableError:
            raise
        except LedgerError as error:
            self.summary.miss(f"releases: not all were checked, because the ledger has errors ({error})")
        self.summary.covered["releases"] = {"checked": audit.checked}

    def _segments(self, segments: SegmentAudit, log: LogAudit, *, has_errors: bool) -> Iterator[Finding]:
        began = self._world.monotonic()
        deep = not (self._scope.quick or has_errors)
        self._world.progress.part("segments", "event", count=segments.events)
        yield from segments.compare(log, self._ledger, deep=deep, progress=self._world.progress.reached)
        if has_errors and segments.files:
            self.summary.miss("segments: only their ends were compared, because the ledger has errors")
        elif not deep and segments.files:
            self.summary.not_covered.append("segments: --quick compares only their ends and reads no events")
        self.summary.covered["segments"] = {
            "files": segments.files,
            "events_read": segments.read,
            "reach": segments.reach,
            "seconds": self._since(began),
        }

    def _copies(self, position: int, *, is_sound: bool) -> Iterator[Finding]:
        if self._scope.storage is not None:
            try:
                demand_objects(self._scope.storage, self._ledger)
            except StorageAwayError as error:
                self.trouble = error
                self.summary.miss("copies: the folder of objects is missing, so none was checked")
                return
        why_not: Unrecorded | None = None if self._scope.record else "no_record"
        if not is_sound:
            why_not = "bad_ledger"
        part = CopyVerification(
            ledger=self._ledger,
            objects=self._objects,
            scope=self._scope,
            world=self._world,
            recorder=Recorder(self._ledger, why_not=why_not),
            summary=self.summary,
            position=position,
            spent_at=self._spent_at,
            reach=reach_of(self._ledger) | self._reach if is_sound else {},
            to_fetch=self._to_fetch,
        )
        yield from part.findings()

    def _source(self, *, has_errors: bool) -> Iterator[Finding]:
        if self._scope.source is None or self._scope.client is None:
            return
        if has_errors:
            self.summary.miss("source: it was not compared, because the ledger has errors")
            return
        began = self._world.monotonic()
        audit = SourceAudit(self._ledger, self._scope.source, self._scope.client)
        yield from audit.findings()
        if audit.trouble is not None:
            self.trouble = audit.trouble
            self.summary.miss(f"source: {audit.trouble}")
            if isinstance(audit.trouble, ServerRefusedError):
                self._reach[self._scope.source] = "refused"
        self.summary.covered["source"] = {
            "source": self._scope.source.hex(),
            "listed": audit.listed,
            "agreeing": audit.agreeing,
            "proved": audit.proved,
            "seconds": self._since(began),
        }

    def _since(self, began: float) -> float:
        return round(self._world.monotonic() - began, 3)
