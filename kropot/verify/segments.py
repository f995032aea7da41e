"""Compare the segments in the storage with the ledger: their bytes, their positions and their roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.durable.errors import storage_error
from kropot.verify.checkpoints import FORKED, ROLLED_BACK
from ledger.audit import Finding
from ledger.errors import MalformedSegmentError
from ledger.events import NO_SOURCE
from ledger.transfer.segments import reach_of, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.segments import SegmentFile, SegmentFolder
    from ledger.audit import LogAudit
    from ledger.log import Ledger
    from ledger.transfer.segments import Reach

_TELL_EVERY = 1000
"""Events between two calls of `progress`."""
AGAIN = "the ledger is not affected: move the file out of the storage path, and the next `collect` writes it again"


class _Held(Struct, frozen=True, kw_only=True):
    """A segment whose first and last events could be read."""

    file: SegmentFile
    reach: Reach


class SegmentAudit:
    """Reads the ends of all segments before the ledger is read, and compares them with its roots afterwards.

    `reach` is the last position that sound segments hold; a gap before it is a finding. `read` counts the events that
    were read again from segments.
    """

    def __init__(self, folder: SegmentFolder) -> None:
        """Read the ends of every segment. Raises: StorageError."""
        self._folder = folder
        self.findings: list[Finding] = []
        self.files = 0
        self.read = 0
        self.reach = 0
        self._held: list[_Held] = []
        for file in folder.found():
            self._open(file)

    @property
    def sizes(self) -> set[int]:
        """The sizes at which the comparison needs the tree's root."""
        return {held.reach.last for held in self._held}

    @property
    def events(self) -> int:
        """How many events the segments hold, according to their ends."""
        return sum(held.reach.last - held.reach.first + 1 for held in self._held)

    def compare(
        self, log: LogAudit, ledger: Ledger, *, deep: bool, progress: Callable[[int], None] = lambda _events: None
    ) -> Iterator[Finding]:
        """Yield every disagreement with the ledger. With `deep`, this reads every event of the segments.

        `log` MUST have been read to its end with `sizes` marked. `progress` is called now and then with `read`.

        Raises: StorageError.
        """
        yield from self.findings
        ledger_id = ledger.identity().ledger_id if NO_SOURCE in log.learnt.salts else None
        for held in self._held:
            wrong = self._against(held, log, ledger_id)
            if wrong is None and deep:
                wrong = self._inside(held, ledger, progress)
            if wrong is not None:
                yield wrong
            elif held.reach.first <= self.reach + 1:
                self.reach = max(self.reach, held.reach.last)
            else:
                yield Finding(
                    kind="missing_segment",
                    severity="error",
                    detail=f"no sound segment holds the events {self.reach + 1} to {held.reach.first - 1}",
                    hint="the ledger is not affected: run `kropotcli collect`, which writes a missing segment again",
                    position=self.reach + 1,
                )
                self.reach = held.reach.last

    def _open(self, file: SegmentFile) -> None:
        self.files += 1
        try:
            with self._folder.open(file) as opened:
                reach = reach_of(opened)
        except MalformedSegmentError as error:
            self.findings.append(_bad(file, error))
            return
        except FileNotFoundError:
            return  # a collector has replaced it with a longer one
        except OSError as error:
            raise storage_error(error, f"reading {file.path}") from error
        if reach.last != file.last:
            why = MalformedSegmentError(f"it ends at event {reach.last}, but its name says {file.last}")
            self.findings.append(_bad(file, why))
            return
        self._held.append(_Held(file=file, reach=reach))

    def _against(self, held: _Held, log: LogAudit, ledger_id: bytes | None) -> Finding | None:
        reach, name = held.reach, held.file.path
        if reach.last > log.head.position:
            detail = f"{name} holds events up to {reach.last}, but the ledger ends at {log.head.position}"
            return Finding(
                kind="rolled_back",
                severity="error",
                detail=f"TRUNCATED OR ROLLED BACK: {detail}",
                hint=f"{ROLLED_BACK}; `kropotcli db recover --from-storage` can recover the newest database",
                position=log.head.position + 1,
            )
        if ledger_id not in (None, reach.ledger_id):
            detail = f"{name} belongs to another ledger: {reach.ledger_id.hex()}"
            hint = "give each ledger a storage path of its own"
            return Finding(kind="foreign_segment", severity="error", detail=detail, hint=hint)
        root = log.roots.get(reach.last)
        if root is not None and root != reach.frontier.root:
            detail = f"FORK: {name} and the ledger hold different events, somewhere up to event {reach.last}"
            return Finding(kind="fork", severity="error", detail=detail, hint=FORKED, position=reach.last)
        return None

    def _inside(self, held: _Held, ledger: Ledger, progress: Callable[[int], None]) -> Finding | None:
        start = ledger.frontier_at(held.reach.first - 1)
        try:
            with self._folder.open(held.file) as opened:
                for _ in read(opened, start):
                    self.read += 1
                    if self.read % _TELL_EVERY == 0:
                        progress(self.read)
        except MalformedSegmentError as error:
            return _bad(held.file, error)
        except FileNotFoundError:
            return None  # a collector has replaced it with a longer one
        except OSError as error:
            raise storage_error(error, f"reading {held.file.path}") from error
        return None


def _bad(file: SegmentFile, error: MalformedSegmentError) -> Finding:
    return Finding(
        kind="bad_segment",
        severity="error",
        detail=f"{file.path}: {error.why}",
        hint=AGAIN,
        position=error.position,
    )
