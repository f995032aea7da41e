"""Broken variants of the program, each with one order or one sync left out: a laboratory that passes them is blind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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
    from kropot.objects.files import OsFiles

    OsFiles.sync_file = lambda _self, fd: os.fstat(fd) and None  # type: ignore[assignment, method-assign]
    OsFiles.sync_volume = lambda _self, fd: os.fstat(fd) and None  # type: ignore[assignment, method-assign]


def _no_folder_sync() -> None:
    """Record objects whose names are not durable."""
    from kropot.objects.durability import Durability

    Durability.sync_folders = lambda _self, _paths: {}  # type: ignore[method-assign]


def _no_restore_sync() -> None:
    """Give files back without making their bytes durable."""
    from kropot.restore.tree import Draft

    Draft.sync = lambda self: os.fstat(self.fd)  # type: ignore[method-assign]


def _lazy_ledger() -> None:
    """Let the ledger's commits wait for the disk as long as it likes."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "begin")
    def lazy(connection: Any) -> None:
        cursor = connection.connection.dbapi_connection.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()


def _silent_failure() -> None:
    """End well, whatever happened."""
    from kropot.cli import main

    inner = main.cli.main

    def fine(*args: Any, **kwargs: Any) -> None:
        try:
            inner(*args, **kwargs)
        except SystemExit as ending:
            raise SystemExit(77 if ending.code else 0) from None

    main.cli.main = fine  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "event before object": _event_before_object,
    "no file sync": _no_file_sync,
    "no folder sync": _no_folder_sync,
    "no restore sync": _no_restore_sync,
    "lazy ledger": _lazy_ledger,
    "undocumented exit": _silent_failure,
}

# What was left out of the program, in which command it shows, and under which disturbance.
SHOWN = (
    ("event before object", "first collect", "kill"),
    ("no file sync", "first collect", "power cut"),
    ("no folder sync", "first collect", "power cut"),
    ("lazy ledger", "first collect", "power cut"),
    ("no restore sync", "restore", "power cut"),
    ("undocumented exit", "verify", "EIO once"),
)
