"""What was read of a keeper's ledger, kept sealed, as the keeper has it. The next command reads only what is new.

The cache of a ledger is a folder: `headers` has the headers of all events, as an export has them, and for each source
there is a folder with the rows of its elements at some positions. Nothing in it is trusted. Its users compare
everything with the tree of all events. So a damaged or forged cache can make a command fail, but never lie.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack

from kropot.afar.replica import BadAnswerError, row_key
from kropot.errors import KropotError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from kropot.afar.replica import AfarReplica

    Moved = Callable[[int], object]
    """Called with the count so far."""

PAGE: Final = 10_000
"""How many headers to ask for at once."""

_KEPT: Final = 2
"""For how many positions to keep the rows of a source."""

_LONGEST_HEADER: Final = 1 << 16
_LONGEST_LINE: Final = 8 << 20
_ERASED: Final = ".erased"


def _nobody(_count: int) -> None:
    """Show no progress."""


class CacheUnusableError(KropotError):
    """The cache cannot be written or read. The message says what to do."""


class SealedCache:
    """The cache of one ledger at one keeper. Only one process at a time uses it; others get one of their own."""

    def __init__(self, folder: Path) -> None:
        """Use this folder, which exists."""
        self._folder = folder

    # --- headers ------------------------------------------------------------------------------------------------------

    def headers(self, replica: AfarReplica, size: int, *, moved: Moved = _nobody) -> Iterator[bytes]:
        """Yield the headers of the first `size` events. Fetch those that were not kept, and call `moved` then.

        Raises: BadAnswerError, CacheUnusableError, and as `KeeperClient.get`.
        """
        path = self._folder / "headers"
        with _explained(path), path.open("a+b") as file:
            kept = _whole_headers(file)
            file.seek(0)
            at = 0
            for header in _unpacked(file):
                if at == min(kept, size):
                    break
                at += 1
                yield header
            file.seek(0, os.SEEK_END)
            while at < size:
                page = replica.client.read("headers", after=at, limit=min(PAGE, size - at))
                headers = _headers_in(page)
                if not headers or at + len(headers) > size:
                    raise BadAnswerError("the headers of events")
                file.write(page)
                file.flush()
                for header in headers:
                    at += 1
                    yield header
                moved(at)

    def forget(self) -> None:
        """Forget everything that was kept."""
        with _explained(self._folder):
            for entry in self._folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != "lock":
                    entry.unlink()

    # --- elements -----------------------------------------------------------------------------------------------------

    def rows(
        self,
        replica: AfarReplica,
        source: bytes,
        position: int,
        *,
        erased_at: int,
        moved: Moved = _nobody,
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of a source's elements at a position. Rows kept from an earlier one are brought up to date.

        Rows kept before the last erasure, at position `erased_at`, are removed: they can hold what was erased.

        Raises: BadAnswerError, CacheUnusableError, and as `KeeperClient.get`.
        """
        folder = self._folder / source.hex()
        with _explained(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            _forget_erased(folder, erased_at)
            place = folder / f"{position}.jsonl"
            if not place.exists():
                kept = [at for at in _positions(folder) if erased_at <= at < position]
                self._fetch(replica, source, position, since=max(kept, default=0), moved=moved)
            yield from _lines(place)
            self._sweep(folder, place)

    def _fetch(self, replica: AfarReplica, source: bytes, position: int, *, since: int, moved: Moved) -> None:
        """Fetch the rows at a position into their file, or only those that are new `since` a kept position."""
        folder = self._folder / source.hex()
        part = folder / f"{position}.{since}.part"
        with part.open("a+b") as file:
            after, count = _last_whole(file)
            for row in replica.rows(source, position, since=since, after=after):
                file.write(json.dumps(row).encode() + b"\n")
                count += 1
                if count % PAGE == 0:
                    moved(count)
        place = folder / f"{position}.jsonl"
        if since:
            whole = folder / f"{position}.whole"
            with whole.open("wb") as file:
                for row in _merged(_lines(folder / f"{since}.jsonl"), _lines(part)):
                    file.write(json.dumps(row).encode() + b"\n")
            whole.replace(place)
            part.unlink()
        else:
            part.replace(place)

    def _sweep(self, folder: Path, used: Path) -> None:
        """Remove the rows of all but the newest positions, and the unfinished files of other fetches."""
        wanted = {folder / f"{at}.jsonl" for at in sorted(_positions(folder))[-_KEPT:]} | {used}
        for path in folder.iterdir():
            if path not in wanted and path.suffix != _ERASED:
                path.unlink()


@contextmanager
def sealed_cache(place: Path | None, keeper: str, ledger_id: bytes) -> Iterator[SealedCache]:
    """Yield the cache for a ledger at a keeper, below `place`. Without one, or if another process has it: a new one.

    Raises: CacheUnusableError if no folder can be made.
    """
    if place is not None:
        named = hashlib.sha256(keeper.encode() + b"\x00" + ledger_id).hexdigest()[:32]
        folder = place / "keepers" / named
        with _explained(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _has_locked(lock):
                yield SealedCache(folder)
                return
        finally:
            os.close(lock)
    with tempfile.TemporaryDirectory(prefix="kropot-") as own:
        yield SealedCache(Path(own))


# --- helpers ---------------------------------------------------------------------------------------------------------


def _has_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheUnusableError(
            f"cannot write {path}, the cache of what the keeper sent ({error.strerror}): free some space, make the "
            f"folder writable, or set XDG_CACHE_HOME"
        ) from error


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Yield the headers in a file, up to where it is damaged."""
    unpacker = msgpack.Unpacker(file, raw=False, max_buffer_size=_LONGEST_LINE)
    with suppress(ValueError, msgpack.UnpackException):
        for header in unpacker:
            if type(header) is not bytes:
                return
            yield header


def _whole_headers(file: BinaryIO) -> int:
    """Return how many whole headers are in the file, and cut off what follows them, which a killed fetch left."""
    file.seek(0)
    unpacker = msgpack.Unpacker(file, raw=False, max_buffer_size=_LONGEST_LINE)
    count = end = 0
    with suppress(ValueError, msgpack.UnpackException):
        for header in unpacker:
            if type(header) is not bytes:
                break
            count, end = count + 1, unpacker.tell()
    file.truncate(end)
    return count


def _headers_in(page: bytes) -> list[bytes]:
    """Return the headers in a keeper's answer. Raises: BadAnswerError."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=len(page) or 1)
    unpacker.feed(page)
    try:
        headers = list(unpacker)
    except (ValueError, msgpack.UnpackException):
        raise BadAnswerError("the headers of events") from None
    if unpacker.tell() != len(page) or any(type(each) is not bytes or len(each) > _LONGEST_HEADER for each in headers):
        raise BadAnswerError("the headers of events")
    return headers


def _forget_erased(folder: Path, erased_at: int) -> None:
    """Remove all rows of a source, unless they were kept after the erasure at this position."""
    mark = folder / f"{erased_at}{_ERASED}"
    if not mark.exists():
        for path in folder.iterdir():
            path.unlink()
        mark.touch()


def _positions(folder: Path) -> list[int]:
    """Return the positions for which a source's rows are kept."""
    return [int(path.stem) for path in folder.glob("*.jsonl") if path.stem.isdecimal()]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows in a file. Raises: CacheUnusableError if they are damaged."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            try:
                row = json.loads(line)
                row_key(row)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise CacheUnusableError(f"{path} is damaged: delete it and run this again") from None
            yield row


def _last_whole(file: BinaryIO) -> tuple[str | None, int]:
    """Return the element after which an interrupted fetch continues, and how many rows it has. Cut off a torn row."""
    file.seek(0)
    end, count, last = 0, 0, None
    while line := file.readline(_LONGEST_LINE):
        try:
            key = row_key(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            break
        if not line.endswith(b"\n"):
            break
        end, count, last = file.tell(), count + 1, f"{key.source.hex()}/{key.kind}/{key.id}"
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return last, count


def _merged(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of both, in the order of their keys. Of two about one element, yield the new one."""
    old_rows, new_rows = iter(old), iter(new)
    one, other = next(old_rows, None), next(new_rows, None)
    while one is not None or other is not None:
        if other is None or (one is not None and row_key(one).stored < row_key(other).stored):
            yield one  # type: ignore[misc]  # one of both is there
            one = next(old_rows, None)
            continue
        if one is not None and row_key(one) == row_key(other):
            one = next(old_rows, None)
        yield other
        other = next(new_rows, None)
