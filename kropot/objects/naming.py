"""Publish objects as files of their own: contents durable, then named `objects/ab/<sha256>`, then names durable."""

# ruff: noqa: PTH120 -- paths are strings here

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from kropot.durable.batch import Durability, Pending
from kropot.durable.errors import StorageError, storage_error
from kropot.objects.store import CHUNK, Published, PublishError, Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kropot.durable.filesystem import FileSystem
    from kropot.objects.layout import Layout
    from kropot.objects.upload import FileUpload


class FileNaming:
    """Publishes objects as files of their own; only one thread at a time may use it.

    `writer` returns the `Durability` that makes files durable, `stage` starts a temporary file, `forget` removes a
    staged one, and `set_aside` puts a damaged object into quarantine.
    """

    def __init__(
        self,
        layout: Layout,
        files: FileSystem,
        writer: Callable[[], Durability],
        *,
        stage: Callable[[], FileUpload],
        forget: Callable[[Staged], None],
        set_aside: Callable[[bytes], str],
    ) -> None:
        """Touch nothing yet."""
        self._layout = layout
        self._files = files
        self._writer = writer
        self._stage = stage
        self._forget = forget
        self._set_aside = set_aside
        # Folders ab/ whose own names this process has made durable, and folders whose last sync failed. A file in one
        # of the latter is never trusted but renamed over: only a new change makes the system write the folder again.
        self._named: set[str] = set()
        self._unsure: set[str] = set()

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Make the contents durable, name the files, then make the names durable."""
        written = [self._written(staged) for staged in batch]
        files = [one for one in written if isinstance(one, Staged)]
        verdicts = iter(self._writer().settle([pending_of(one) for one in files]))
        outcomes: list[Published | PublishError] = []
        for one in written:
            if isinstance(one, PublishError):
                outcomes.append(one)
                continue
            try:
                failure = next(verdicts)
                if failure is not None:
                    raise failure
                outcomes.append(self._name(one))
            except StorageError as error:
                self._forget(one)
                outcomes.append(PublishError(sha256=one.sha256, size=one.size, error=error))
        return self._settle_names(outcomes)

    def _written(self, staged: Staged) -> Staged | PublishError:
        """Write an object to a file if it is still all in memory."""
        if not isinstance(staged.pending, bytes):
            return staged
        upload = self._stage()
        try:
            upload.write(staged.pending)
            return upload.finish()
        except StorageError as error:
            return PublishError(sha256=staged.sha256, size=staged.size, error=error)

    def _name(self, staged: Staged) -> Published:
        """Give a durable file its name, unless a sound object already has it. Raises: StorageError."""
        path, folder = self._layout.object(staged.sha256), self._layout.folder(staged.sha256)
        set_aside = None
        try:
            existed = os.path.lexists(path) and folder not in self._unsure
            if existed and not self._is_sound(path, staged):
                existed = False
                # If its file is gone, it has moved into a pack, or is about to; then it is not damaged.
                if os.path.lexists(path):
                    set_aside = self._set_aside(staged.sha256)
            if existed:
                self._files.unlink(staged.path)
            else:
                self._rename(staged.path, path)
        except OSError as error:
            raise storage_error(error, f"naming the object {path}") from error
        return Published(sha256=staged.sha256, size=staged.size, existed=existed, set_aside=set_aside)

    def _rename(self, source: str, path: str) -> None:
        """Rename a file; create its new folder if there is none yet. Raises: OSError."""
        try:
            self._files.rename(source, path)
        except FileNotFoundError:
            folder = os.path.dirname(path)
            self._named.discard(folder)
            with contextlib.suppress(FileExistsError):
                self._files.make_folder(folder)
            self._files.rename(source, path)

    def _is_sound(self, path: str, staged: Staged) -> bool:
        """Read an object that another writer might have just renamed, and sync it if it has the right SHA-256.

        If it cannot be read or synced, it is not sound: the staged file, which is durable, then takes its place.
        """
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(CHUNK, staged.size + 1)))
        try:
            fd = self._files.open_read(path)
            try:
                while count := self._files.read_into(fd, buffer):
                    digest.update(buffer[:count])
                if digest.digest() != staged.sha256:
                    return False
                self._files.sync_file(fd)
            finally:
                self._files.close(fd)
        except OSError:
            return False
        return True

    def _settle_names(self, outcomes: list[Published | PublishError]) -> list[Published | PublishError]:
        """Sync every folder in which a file was named, and `objects/` if any of them is new to this process."""
        writer = self._writer()
        folders = {self._layout.folder(o.sha256) for o in outcomes if isinstance(o, Published)}
        failed = writer.sync_folders(sorted(folders))
        if fresh := folders - self._named:
            failed_parent = writer.sync_folders([self._layout.objects])
            failed |= {folder: error for folder in fresh for error in failed_parent.values()}
        self._unsure |= failed.keys()
        self._unsure -= folders - failed.keys()
        self._named |= folders - failed.keys()
        return outcomes if not failed else [self._unless_failed(outcome, failed) for outcome in outcomes]

    def _unless_failed(
        self, outcome: Published | PublishError, failed: dict[str, StorageError]
    ) -> Published | PublishError:
        error = failed.get(self._layout.folder(outcome.sha256))
        if isinstance(outcome, PublishError) or error is None:
            return outcome
        return PublishError(sha256=outcome.sha256, size=outcome.size, error=error)


def pending_of(staged: Staged) -> Pending:
    """Return what is left to do until a staged file is durable. Raises: TypeError if another store staged it."""
    if not isinstance(staged.pending, Pending):
        raise TypeError("this object was staged by another store")
    return staged.pending
