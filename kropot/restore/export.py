"""Export sealed copies in the first client's layout, with a manifest that holds what decrypting needs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from kropot.durable.errors import StorageError
from kropot.durable.refusals import InTheWayError, NoRoomError, TooLargeError, UnplaceableError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import held_json
from kropot.replay.fold import pages
from kropot.restore.authentic import DamagedError
from kropot.restore.evidence import HISTORY, event_json
from kropot.restore.journal import content_of, show_name
from kropot.restore.opener import copy_content
from kropot.restore.parallel import in_order
from kropot.securecopy.sealed_form import sealed_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor
    from typing import BinaryIO

    from kropot.durable.draft import Draft
    from kropot.durable.target import TargetFolder
    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.journal import Journal
    from kropot.restore.names import NameGiver
    from ledger.events import StreamKey
    from ledger.places import Placement

MANIFEST = b"manifest.jsonl"
JOURNAL = b".kropot-export.jsonl"

PLACED = 256
"""How many copies to look up in the ledger at once."""

Links = Literal["never", "reflink", "hard"]
Flaw = Literal["missing", "damaged", "unreadable", "in_the_way", "too_large", "unplaceable"]


class Exported(Struct, frozen=True, kw_only=True):
    """A copy that the export holds at `path`; `existed` is true if an earlier run wrote it."""

    held: HeldCopy
    path: tuple[bytes, ...]
    existed: bool


class Unexported(Struct, frozen=True, kw_only=True):
    """A copy that could not be exported; `why` is the reason in words."""

    flaw: Flaw
    held: HeldCopy
    why: str

    @property
    def key(self) -> StreamKey:
        """The key of the element that the copy belongs to."""
        return self.held.key


def place_of(element_id: str) -> tuple[bytes, ...]:
    """Return where the first client keeps an element: two folders named after the id's first letters, `v1`, the id."""
    name = element_id.encode()
    padded = name.ljust(4, b"_")
    return (padded[:2], padded[2:4], b"v1", name)


def export(
    helds: Iterable[HeldCopy],
    *,
    copies: Copies,
    tree: TargetFolder,
    journal: Journal,
    names: NameGiver,
    pool: Executor,
    links: Links = "reflink",
    history: Iterable[bytes] | None = None,
) -> Iterator[Exported | Unexported]:
    """Write every held copy, several at a time. Yield each result in order, then write the manifest.

    `links` says what the export can share with the storage instead of copying it: nothing, blocks (`reflink`), or the
    files themselves (`hard`). `history` has the parts of the file that proves where the copies come from
    (kropot/restore/evidence.py), None for no such file.

    Raises:
        InTheWayError: another file already has the manifest's name.
        TreeError: nothing more can be written; a second run continues where this one stopped.

    """
    job = _ExportJob(copies, tree, journal, links)
    replace = job.may_replace(MANIFEST)
    if history is not None:
        job.write_whole(HISTORY, history)
    manifest, digest = tree.draft(), hashlib.sha256()
    try:
        tasks = (
            job.prepare(held, names.give(place_of(held.key.id), held.key.stored), place)
            for held, place in _placed(helds, copies)
        )
        for outcome in in_order(pool, job.work, tasks, window=64):
            done, found = (outcome, None) if isinstance(outcome, Unexported) else outcome
            if isinstance(done, Exported) and found is not None and done.held.sha256 is not None:
                journal.wrote(done.path, done.held.identity, found, done.held.sha256, {})
            line = _line(done)
            digest.update(line)
            manifest.write(line)
            yield done
        # The journal comes first. If a run stops before the manifest has its name, the next run MUST recognise it.
        manifest.sync()
        journal.wrote_content((MANIFEST,), digest.digest())
        journal.sync()
        tree.place(manifest, (MANIFEST,), replace=replace)
        tree.settle()
    finally:
        manifest.drop()


_Done = tuple[Exported, os.stat_result | None]


class _ExportTask(Struct, frozen=True):
    """A copy to write at a path. `is_taken` is true if a file is already there, ours or not.

    `place` is its place in a pack, according to the ledger.
    """

    held: HeldCopy
    path: tuple[bytes, ...]
    is_taken: bool
    place: Placement | None = None


class _ExportJob:
    def __init__(self, copies: Copies, tree: TargetFolder, journal: Journal, links: Links) -> None:
        self._copies = copies
        self._tree = tree
        self._journal = journal
        self._links = links

    def may_replace(self, name: bytes) -> bool:
        """Return whether an earlier run wrote this file in the top folder. Raises: InTheWayError if it is not ours."""
        found = self._tree.look((name,))
        if found is not None and not (stat.S_ISREG(found.st_mode) and self._is_ours((name,))):
            shown = f"{self._tree.root}/{os.fsdecode(name)}"
            raise InTheWayError(f"{shown} does not belong to this export: move it away, or choose another folder")
        return found is not None

    def _is_ours(self, path: tuple[bytes, ...]) -> bool:
        try:
            return self._journal.is_ours(path, content_of(self._tree.read(path))[1])
        except OSError:
            return False

    def write_whole(self, name: bytes, parts: Iterable[bytes]) -> None:
        """Write a file in the top folder, replacing that of an earlier run. Raises: InTheWayError, TreeError."""
        replace = self.may_replace(name)
        draft, digest = self._tree.draft(), hashlib.sha256()
        try:
            for part in parts:
                digest.update(part)
                draft.write(part)
            draft.sync()
            self._journal.wrote_content((name,), digest.digest())
            self._journal.sync()
            self._tree.place(draft, (name,), replace=replace)
        finally:
            draft.drop()

    def prepare(
        self, held: HeldCopy, path: tuple[bytes, ...], place: Placement | None
    ) -> _ExportTask | _Done | Unexported:
        """Check what is already at the path. Only one thread calls this, in order."""
        found = self._tree.look(path)
        if found is None:
            return _ExportTask(held, path, is_taken=False, place=place)
        if not stat.S_ISREG(found.st_mode):
            return Unexported(
                flaw="in_the_way",
                held=held,
                why="a folder, link or device has this name and was not changed: move it away and run this again",
            )
        if self._journal.is_done(path, held.identity, found):
            return Exported(held=held, path=path, existed=True), None
        return _ExportTask(held, path, is_taken=True, place=place)

    def work(self, task: _ExportTask | _Done | Unexported) -> _Done | Unexported:
        """Carry out the prepared task. Several threads call this."""
        if not isinstance(task, _ExportTask):
            return task
        try:
            if task.is_taken and not self._is_ours(task.path):
                return self._adopt(task)
            return self._write(task)
        except NoRoomError:
            alone = self._tree.too_large(task.held.size)
            if alone is None:
                raise
            return Unexported(flaw="too_large", held=task.held, why=str(alone))
        except (ObjectMissingError, DamagedError, StorageError, InTheWayError, UnplaceableError) as error:
            flaw = next(name for kind, name in _FLAWS.items() if isinstance(error, kind))
            return Unexported(flaw=flaw, held=task.held, why=str(error))

    def _write(self, task: _ExportTask) -> _Done:
        draft = self._tree.draft()
        try:
            with self._source(task) as source:
                self._fill(draft, source, task.held)
            found = draft.sync()
            self._tree.place(draft, task.path, replace=task.is_taken)
        finally:
            draft.drop()
        return Exported(held=task.held, path=task.path, existed=False), found

    def _source(self, task: _ExportTask) -> BinaryIO:
        """Open the stored bytes. From a pack, read them in one piece if the place from the ledger is right."""
        if task.place is not None:
            with suppress(ObjectMissingError, StorageError, OSError):
                data = self._copies.read(task.held, task.place)
                if hashlib.sha256(data).digest() == task.held.sha256:
                    return io.BytesIO(data)
        return self._copies.open(task.held)

    def _fill(self, draft: Draft, source: BinaryIO, held: HeldCopy) -> None:
        """Put the object's bytes into the draft, shared or copied, and check their hash. Raises: DamagedError."""
        fd = _descriptor(source)
        shared = fd is not None and (
            (self._links == "hard" and draft.link(fd)) or (self._links != "never" and draft.clone(fd))
        )
        if not shared:
            copy_content(source, draft.write, held=held, kit=None)
            return
        with os.fdopen(os.dup(draft.fd), "rb", buffering=0) as own:
            own.seek(0)
            copy_content(own, lambda _: None, held=held, kit=None)

    def _adopt(self, task: _ExportTask) -> _Done | Unexported:
        """Accept a file that already holds exactly these bytes: an earlier run stopped before recording it."""
        try:
            with os.fdopen(self._tree.read(task.path), "rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                copy_content(file, lambda _: None, held=task.held, kit=None)
        except (OSError, DamagedError):
            return Unexported(
                flaw="in_the_way",
                held=task.held,
                why="a file with different content has this name and was not changed: move it away and run this again",
            )
        return Exported(held=task.held, path=task.path, existed=True), found


_FLAWS: dict[type[Exception], Flaw] = {
    ObjectMissingError: "missing",
    DamagedError: "damaged",
    StorageError: "unreadable",
    InTheWayError: "in_the_way",
    TooLargeError: "too_large",
    UnplaceableError: "unplaceable",
}


def _placed(helds: Iterable[HeldCopy], copies: Copies) -> Iterator[tuple[HeldCopy, Placement | None]]:
    """Yield each copy with its place in a pack. Single queries to the ledger would take most of the time."""
    for page in pages(helds, PLACED):
        yield from zip(page, copies.places(page), strict=True)


def _descriptor(source: BinaryIO) -> int | None:
    """Return the file descriptor of an object, or None if it is not a local file."""
    try:
        return source.fileno()
    except OSError:
        return None


def _line(done: Exported | Unexported) -> bytes:
    """Return the manifest's line about one copy. It includes the form as the JSON that was listed."""
    held = done.held
    line: dict[str, Any]
    if isinstance(done, Unexported):
        # A person who has only the export MUST be able to see that it is incomplete.
        line = {"file": None, "problem": done.flaw}
    else:
        name, true = done.path[-1], held.key.id.encode()
        escape = None if name == true else "percent" if unquote_to_bytes(name) == true else "renamed"
        line = show_name("file", b"/".join(done.path)) | {"escaped": escape}
    line |= held_json(held) | {"is_older": held.is_older, "is_past": held.is_past}
    header = sealed_header(held.form)
    if header is not None:
        # A check of the copy elsewhere compares these with the copy's own header.
        line["sc2"] = {"vault": header.vault.hex(), "version": header.version.hex()}
    line["form"] = json.loads(held.form)
    if held.events:
        line["events"] = [event_json(event) for event in held.events]
    return json.dumps(line, ensure_ascii=True).encode() + b"\n"
