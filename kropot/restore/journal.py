"""What a run wrote, one JSON object a line: the manifest of a restore, and what lets a second run go on.

A file is ours if its line is here and its size and time are still those that the line tells; anything else in the
folder belongs to somebody, and is never written to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Self

from kropot.durable.draft import TreeError, sync_file
from kropot.errors import UsageError
from kropot.restore.fingerprints import FINGERPRINT, Fingerprints

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.durable.dirfd import Parts
    from kropot.durable.target import TargetFolder

_FLUSH_BYTES = 1 << 16
_BEGINNING = b'{"file"'


class Written:
    """What a journal says was written, in a memory of flat size."""

    def __init__(self, place: str) -> None:
        """Begin with nothing; `place` is the journal's, for messages."""
        self._place = place
        self._known = Fingerprints()

    def __enter__(self) -> Self:
        """Return itself; the block's end lets go of what was open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of what was open."""
        self.close()

    def is_done(self, path: Parts, identity: bytes, found: os.stat_result) -> bool:
        """Return whether the file was written by us from `identity` (32 bytes) and looks as it did then."""
        return self._mark(b"done", path, identity, found.st_size, found.st_mtime_ns) in self._known

    def is_ours(self, path: Parts, found: os.stat_result) -> bool:
        """Return whether the file was written by us, from whatever, and looks as it did then."""
        return self._mark(b"ours", path, b"", found.st_size, found.st_mtime_ns) in self._known

    def has_content(self, path: Parts, sha256: bytes) -> bool:
        """Return whether a file of this content (SHA-256) was written by us under this name."""
        return self._mark(b"done", path, sha256, 0, 0) in self._known

    def close(self) -> None:
        """Let go of the memory."""
        self._known.close()

    def read(self, fd: int) -> int:
        """Learn what a journal's whole lines say, return where they end. Raises: UsageError for one that is none."""
        end = 0
        with os.fdopen(os.dup(fd), "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") or _is_torn(line):
                    break
                self._take(line, number)
                end += len(line)
        return end

    def _take(self, line: bytes, number: int) -> None:
        try:
            held = json.loads(line)
            path = tuple(read_name("file", held).split(b"/"))
            size, mtime_ns, identity = held["file_size"], held["file_mtime_ns"], bytes.fromhex(held["identity"])
            self._learn(path, identity, int(size), int(mtime_ns))
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
            raise UsageError(
                f"line {number} of {self._place} was not written by this program: move the file away, "
                "or name another folder"
            ) from None

    def _learn(self, path: Parts, identity: bytes, size: int, mtime_ns: int) -> None:
        self._known.add(self._mark(b"done", path, identity, size, mtime_ns))
        self._known.add(self._mark(b"ours", path, b"", size, mtime_ns))

    @staticmethod
    def _mark(what: bytes, path: Parts, identity: bytes, size: int, mtime_ns: int) -> bytes:
        said = b"\x00".join((what, b"/".join(path), identity.hex().encode(), b"%d %d" % (size, mtime_ns)))
        return hashlib.sha256(said).digest()[:FINGERPRINT]


class Journal(Written):
    """An append-only file of such lines in the top folder of a tree."""

    def __init__(self, tree: TargetFolder, name: bytes) -> None:
        """Read the file, made where it is missing; what a kill or a power cut left half-written is cut off.

        Raises: UsageError where a file of that name holds something else; InTheWayError, TreeError.
        """
        super().__init__(f"{tree.root}/{os.fsdecode(name)}")
        self._waiting: list[bytes] = []
        self._size = 0
        self._fd = tree.open_log(name)
        try:
            end = self.read(self._fd)
            if end != os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, end)
        except BaseException:
            self.close()
            raise

    def wrote(self, path: Parts, identity: bytes, found: os.stat_result, details: dict[str, Any]) -> None:
        """Record a placed file; the line is on disk at the latest when `sync` returns. Raises: TreeError."""
        line = show_name("file", b"/".join(path)) | {
            "file_size": found.st_size,
            "file_mtime_ns": found.st_mtime_ns,
            "identity": identity.hex(),
        }
        self._waiting.append(json.dumps(line | details, ensure_ascii=True).encode() + b"\n")
        self._size += len(self._waiting[-1])
        self._learn(path, identity, found.st_size, found.st_mtime_ns)
        if self._size > _FLUSH_BYTES:
            self._flush()

    def wrote_content(self, path: Parts, sha256: bytes) -> None:
        """Record a file by its content alone, told before it is placed: times do not matter to `has_content`."""
        line = show_name("file", b"/".join(path)) | {"file_size": 0, "file_mtime_ns": 0, "identity": sha256.hex()}
        self._waiting.append(json.dumps(line, ensure_ascii=True).encode() + b"\n")
        self._learn(path, sha256, 0, 0)

    def sync(self) -> None:
        """Make every line durable. Raises: TreeError."""
        self._flush()
        try:
            sync_file(self._fd)
        except OSError as error:
            raise TreeError(f"syncing {self._place}: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file; what was not synced may be lost, and is then found out again by the next run."""
        try:
            self._flush()
        finally:
            os.close(self._fd)
            self._known.close()

    def _flush(self) -> None:
        data, self._waiting, self._size = b"".join(self._waiting), [], 0
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise TreeError(f"writing {self._place}: {error.strerror}; make room and run it again") from None


def written_in(root: Path, name: bytes) -> Written:
    """Return what the journal of that name in a folder says, nothing where there is none; nothing is written.

    Raises: UsageError where it cannot be read, or holds something else.
    """
    place = root / os.fsdecode(name)
    written = Written(str(place))
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return written
    except OSError as error:
        written.close()
        raise UsageError(f"{place} cannot be read: {error.strerror}") from None
    try:
        written.read(fd)
    except OSError as error:
        written.close()
        raise UsageError(f"{place} cannot be read: {error.strerror}") from None
    except UsageError:
        written.close()
        raise
    finally:
        os.close(fd)
    return written


def _is_torn(line: bytes) -> bool:
    """Return whether the line is one of ours, or the room for one, that a power cut robbed of bytes: they read as NUL.

    JSON holds none. Whatever stood behind such a line is found out again by comparing the files themselves.
    """
    return b"\x00" in line and line.startswith((_BEGINNING, b"\x00"))


def show_name(field: str, name: bytes) -> dict[str, str]:
    """Return the name as JSON fields: as text, and in base64 too where it is no UTF-8 (the text is then escaped)."""
    try:
        return {field: name.decode()}
    except UnicodeDecodeError:
        return {field: name.decode(errors="backslashreplace"), f"{field}_base64": base64.b64encode(name).decode()}


def read_name(field: str, held: dict[str, Any]) -> bytes:
    """Undo `show_name`. Raises: ValueError, KeyError or TypeError if it is not there."""
    encoded = held.get(f"{field}_base64")
    if encoded is not None:
        return base64.b64decode(encoded, validate=True)
    name: str = held[field]
    return name.encode()
