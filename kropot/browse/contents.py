"""Stream contents to the browser: open them while reading, check them to the end, and cut them off if a check fails.

A browser reports a download without an end as failed, so refused content never looks complete.
"""

from __future__ import annotations

import queue
import threading
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from kropot.durable.target import NameRules
from kropot.errors import KropotError
from kropot.restore.names import safe_path
from kropot.restore.opener import copy_content
from kropot.restore.problems import DIFFERS, EXCHANGED, is_as_told, is_exchanged
from kropot.sc2.form import Kind
from kropot.sc2.kit import CbcKey
from kropot.sc2.refused import Reason, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import BinaryIO

    from kropot.browse.files import OpenedMoment
    from kropot.browse.names import NamedFile
    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.opener import Opened

PREVIEW: Final = 256 << 10
_PIECES: Final = 16
_RULES: Final = NameRules(portable=True)
_FIRST_YEAR, _LAST_YEAR = 1980, 2107


class StoppedError(KropotError):
    """The reader stopped, so the rest is not needed."""


class NotStoredError(KropotError):
    """There is no copy of this content."""


def content(held: HeldCopy, opened: Opened, copies: Copies, write: Callable[[memoryview], object]) -> None:
    """Pass a file's plain bytes to `write`. If this raises, they MUST be discarded.

    Raises: NotStoredError, RefusedError if the content is not what its form says, and as `copy_content`.
    """
    with _source(held, opened, copies) as source:
        _copy(source, held, opened, write)


def preview(held: HeldCopy, opened: Opened, copies: Copies) -> tuple[str | None, bool]:
    """Return the beginning of a file as text, None if it is not text, and whether that is all. Reads the whole file.

    Raises: as `copy_content`.
    """
    kept = bytearray()
    total = 0

    def keep(data: memoryview) -> None:
        nonlocal total
        total += len(data)
        kept.extend(data[: max(0, PREVIEW - len(kept))])

    content(held, opened, copies, keep)
    is_all = total <= PREVIEW
    if 0 in kept:
        return None, is_all
    try:
        return bytes(kept).decode(), is_all
    except UnicodeDecodeError as error:
        # The last kept character can be incomplete.
        is_cut = not is_all and error.start > len(kept) - 4
        return (bytes(kept[: error.start]).decode(), is_all) if is_cut else (None, is_all)


def zipped(moment: OpenedMoment, folder: bytes, write: Callable[[bytes], object], *, gone: bool) -> None:
    """Write a folder as a zip, file by file. A list at its end names the files that cannot be opened.

    If a check fails while a file is written, the zip ends there, so a complete zip contains only checked files.
    """
    left: list[str] = []
    sink = _Sink(write)
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive, sink:  # type: ignore[call-overload]  # it only writes
        for file in moment.opening.names.below(folder, gone=gone):
            shown = file.path.decode(errors="backslashreplace")
            info = _info(file, folder)
            if file.kind is Kind.FOLDER:
                archive.writestr(info, b"")
                continue
            held = moment.held(file)
            opened = moment.opened(held)
            if file.kind is Kind.SYMLINK or held.sha256 is None:
                left.append(f"{shown}: {'a symbolic link' if file.kind is Kind.SYMLINK else 'not stored yet'}")
                continue
            try:
                source = _source(held, opened, moment.copies)
            except KropotError as error:
                left.append(f"{shown}: {error}")
                continue
            with source, archive.open(info, "w", force_zip64=True) as entry, sink:
                _copy(source, held, opened, entry.write)
        if left:
            archive.writestr("kropot-not-in-this-zip.txt", "\n".join([*left, ""]).encode())


def pumped(work: Callable[[Callable[[bytes], object]], None]) -> Iterator[bytes]:
    """Yield what `work` writes. It runs on its own thread, and never gets far ahead. Raises: what `work` raises."""
    pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_PIECES)
    stopped = threading.Event()

    def put(item: bytes | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                pieces.put(item, timeout=0.5)
            except queue.Full:
                continue
            return
        if item is not None and not isinstance(item, BaseException):
            raise StoppedError("nobody wants the rest")

    def run() -> None:
        end: BaseException | None = None
        try:
            work(put)
        except BaseException as error:  # noqa: BLE001 -- it is raised where the pieces are taken
            end = error
        put(end)

    thread = threading.Thread(target=run, name="content", daemon=True)
    thread.start()
    try:
        while (item := pieces.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def is_checked_early(opened: Opened) -> bool:
    """Whether each piece is checked before it is passed on, as with sc2. Else a failed check only cuts the download."""
    return not isinstance(opened.kit, CbcKey) and opened.kit is not None


def _source(held: HeldCopy, opened: Opened, copies: Copies) -> BinaryIO:
    """Open the stored bytes of a content. Raises: NotStoredError, RefusedError, and as `Copies.open`."""
    if held.sha256 is None:
        raise NotStoredError("this content was not stored yet")
    if is_exchanged(held, opened):
        raise RefusedError(Reason.CONTENT, EXCHANGED)
    return copies.open(held)


def _copy(source: BinaryIO, held: HeldCopy, opened: Opened, write: Callable[[memoryview], object]) -> None:
    """Pass the plain bytes on. Raises: RefusedError if they are not what the form says, and as `copy_content`."""
    found = copy_content(source, write, held=held, kit=opened.kit)
    if not is_as_told(opened.claim, found):
        raise RefusedError(Reason.CONTENT, DIFFERS)


class _Sink:
    """A file that is only written to, from start to end.

    As the innermost `with` block, it stops at the first failure. It discards what `zipfile` writes after one to
    complete the zip.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._is_cut = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_cut |= kind is not None

    def write(self, data: bytes) -> int:
        if not self._is_cut:
            self._write(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass


def _info(file: NamedFile, folder: bytes) -> zipfile.ZipInfo:
    """Return a file's header in the zip. Its name cannot lead outside the folder where the zip is unpacked."""
    above = folder.rpartition(b"/")[0]
    relative = file.path[len(above) + 1 :] if above else file.path
    parts = tuple(part for part in relative.split(b"/") if part)
    name = b"/".join(safe_path(parts, _RULES)).decode(errors="replace")
    seconds = 0 if file.mtime_ns is None else file.mtime_ns // 1_000_000_000
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        at = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC)
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        at = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC)
    info = zipfile.ZipInfo(name + ("/" if file.kind is Kind.FOLDER else ""), at.timetuple()[:6])
    info.external_attr = (0o40755 if file.kind is Kind.FOLDER else 0o100644) << 16
    return info
