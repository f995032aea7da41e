"""Broken variants of the program, each with one order or one sync left out: a laboratory that passes them is blind."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def _event_before_object() -> None:
    """Tell of objects as published while they lie under their temporary names; name them once the event is recorded."""
    from kropot.objects.directory import DirectoryObjects
    from kropot.objects.store import Published
    from ledger.log import Ledger

    publish, append = DirectoryObjects.publish, Ledger.append
    late: list[tuple[DirectoryObjects, Sequence[Any]]] = []

    def too_early(self: DirectoryObjects, batch: Sequence[Any]) -> list[Any]:
        late.append((self, batch))
        return [Published(sha256=staged.sha256, size=staged.size) for staged in batch]

    def and_then(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        commit = append(self, *args, **kwargs)
        while late:
            publish(*late.pop())
        return commit

    DirectoryObjects.publish = too_early  # type: ignore[method-assign]
    Ledger.append = and_then  # type: ignore[method-assign]


def _no_file_sync() -> None:
    """Name objects without having made their bytes durable."""
    from kropot.durable.filesystem import OsFiles

    OsFiles.sync_file = lambda _self, fd: os.fstat(fd) and None  # type: ignore[assignment, method-assign]
    OsFiles.sync_volume = lambda _self, fd: os.fstat(fd) and None  # type: ignore[assignment, method-assign]


def _no_folder_sync() -> None:
    """Record objects whose names are not durable."""
    from kropot.durable.batch import Durability

    Durability.sync_folders = lambda _self, _paths: {}  # type: ignore[method-assign]


def _no_restore_sync() -> None:
    """Give files back without making their bytes durable."""
    from kropot.durable.new_files import NewFiles
    from kropot.durable.target import Draft

    Draft.sync = lambda self: os.fstat(self.fd)  # type: ignore[method-assign]
    NewFiles.sync = lambda _self: None  # type: ignore[method-assign]


def _lazy_ledger() -> None:
    """Let the ledger's commits wait for the disk as long as it likes."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "begin")
    def lazy(connection: Any) -> None:
        cursor = connection.connection.dbapi_connection.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()


def _two_commits() -> None:
    """Commit events apart from the projection and the head."""
    from ledger.sql.writing import SqlWriting

    change = SqlWriting.change

    def apart(self: SqlWriting, changes: Any) -> None:
        self._cursor.execute("COMMIT")
        self._cursor.execute("BEGIN IMMEDIATE")
        change(self, changes)

    SqlWriting.change = apart  # type: ignore[method-assign]


def _deaf_to_sync_errors() -> None:
    """Take a sync that failed for one that was done."""
    from kropot.durable.filesystem import OsFiles

    for name in ("sync_file", "sync_folder", "sync_volume"):
        setattr(OsFiles, name, _deaf(getattr(OsFiles, name)))


def _deaf(sync: Callable[..., None]) -> Callable[..., None]:
    def deaf(*args: Any) -> None:
        with contextlib.suppress(OSError):
            sync(*args)

    return deaf


def _believed_names() -> None:
    """Take names that an earlier run gave for durable, though it was killed."""
    from kropot.checkpoints.folder import CheckpointFolder
    from kropot.durable.target import TargetFolder

    TargetFolder.settle = lambda _self: None  # type: ignore[method-assign]
    CheckpointFolder.settle = lambda _self: None  # type: ignore[method-assign]


def _unfolded_log() -> None:
    """Go on behind a hole in SQLite's log."""
    from ledger.sql.connections import Connections

    Connections._fold_log = lambda _self, _driver: None  # type: ignore[method-assign]


def _repair_removes() -> None:
    """Remove a damaged object instead of setting it aside."""
    from kropot.objects.directory import DirectoryObjects

    def remove(self: DirectoryObjects, sha256: bytes) -> str:
        path = self._layout.object(sha256)
        os.unlink(path)  # noqa: PTH108 -- as the store does it
        return path

    DirectoryObjects.set_aside = remove  # type: ignore[method-assign]


def _unsynced_segments() -> None:
    """Write the ledger's own copy in the storage without making its bytes durable."""
    from kropot.segments import SegmentFolder

    write = SegmentFolder._write

    def lazily(self: SegmentFolder, *args: Any) -> Any:
        self._files.sync_file = lambda fd: os.fstat(fd) and None  # type: ignore[assignment, method-assign, return-value]
        return write(self, *args)

    SegmentFolder._write = lazily  # type: ignore[method-assign]


def _unsynced_freeing() -> None:
    """Say that bytes are free before it is durable that their names are gone."""
    from kropot.objects.freeing import FolderFreeing

    def lazily(self: FolderFreeing, sha256s: Any) -> None:
        for sha256 in sha256s:
            os.unlink(self._path(sha256))  # noqa: PTH108 -- as the store does it

    FolderFreeing.destroy = lazily  # type: ignore[method-assign]


def _unsynced_checkpoint() -> None:
    """Give a checkpoint its name without making its bytes durable."""
    from kropot.checkpoints import folder

    folder.sync_written = lambda file: file.flush()  # type: ignore[attr-defined]


def _unsynced_names() -> None:
    """Give files back without making their names durable."""
    from kropot.durable import target

    target.sync_names = lambda _folder: None  # type: ignore[attr-defined]
    target.TargetFolder.settle = lambda _self: None  # type: ignore[method-assign]


def _token_before_kit() -> None:
    """Make the token first, and keep its key then."""
    from kropot.gateway.tokens import TokenBook

    create = TokenBook.create

    def hastily(self: TokenBook, value: Any, keep_kit: Callable[[Any], Path] | None = None, **how: Any) -> Any:
        created = create(self, value, **how)
        kit = created.kit or created.vault_kit
        if kit is None or keep_kit is None:
            return created
        return replace(created, kit_path=keep_kit(kit))

    TokenBook.create = hastily  # type: ignore[method-assign]


def _silent_failure() -> None:
    """End with a code that nobody documented, whatever happened."""
    _ending(lambda code: 77 if code else 0)


def _always_fine() -> None:
    """End well, whatever happened."""
    _ending(lambda _: 0)


def _ending(changed: Callable[[Any], int]) -> None:
    from kropot.cli import main

    inner = main.cli.main

    def fine(*args: Any, **kwargs: Any) -> None:
        try:
            inner(*args, **kwargs)
        except SystemExit as ending:
            raise SystemExit(changed(ending.code)) from None

    main.cli.main = fine  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "event before object": _event_before_object,
    "no file sync": _no_file_sync,
    "no folder sync": _no_folder_sync,
    "no restore sync": _no_restore_sync,
    "lazy ledger": _lazy_ledger,
    "undocumented exit": _silent_failure,
    "two commits": _two_commits,
    "deaf to sync errors": _deaf_to_sync_errors,
    "believed names": _believed_names,
    "unfolded log": _unfolded_log,
    "repair removes": _repair_removes,
    "unsynced segments": _unsynced_segments,
    "unsynced freeing": _unsynced_freeing,
    "unsynced checkpoint": _unsynced_checkpoint,
    "unsynced names": _unsynced_names,
    "token before kit": _token_before_kit,
    "always fine": _always_fine,
}

# What was left out of the program, in which command it shows, and under which disturbance.
SHOWN = (
    ("event before object", "first collect", "kill"),
    ("no file sync", "first collect", "power cut"),
    ("no folder sync", "first collect", "power cut"),
    ("lazy ledger", "first collect", "power cut"),
    ("no restore sync", "restore", "power cut"),
    ("undocumented exit", "verify", "EIO once"),
    ("two commits", "first collect", "kill"),
    ("deaf to sync errors", "first collect", "failed sync, power cut"),
    ("believed names", "restore", "kill, again, power cut"),
    ("repair removes", "repair", "kill"),
    ("unsynced segments", "first collect", "power cut"),
    ("unsynced checkpoint", "checkpoint", "power cut"),
    ("unsynced names", "restore", "power cut"),
    ("unsynced freeing", "prune", "power cut"),
    ("token before kit", "token create", "kill"),
    ("always fine", "restore", "ENOSPC from there on"),
)

# Those that show at so few points that only `make faults` has the time to find one.
DEAR = (("unfolded log", "collect changes", "failed sync, power cut"),)
