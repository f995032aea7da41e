"""The journal of a run: one JSON line for each file that it wrote. A second run uses it to continue.

For a restore, the journal is also the manifest. A file is ours if the journal has a line for it, and the file still has
exactly the content (SHA-256) in that line. Size and time prove nothing: anyone who can write to the journal can see
them. Any other file in the folder belongs to somebody else, and we never write to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any, Self

import orjson

from kropot.durable.dirfd import open_regular
from kropot.durable.draft import sync_file
from kropot.durable.refusals import trouble
from kropot.errors import UsageError
from kropot.restore.fingerprints import FINGERPRINT, Fingerprints

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kropot.durable.dirfd import Parts
    from kropot.durable.target import TargetFolder

_FLUSH_BYTES = 1 << 16
_BEGINNING = b'{"file"'


class Written:
    """The files that a journal lists. Memory stays flat however many there are."""

    def __init__(self, place: str) -> None:
        """Start empty. `place` is the path of the journal, for messages."""
        self._place = place
        self._known = Fingerprints()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def is_done(self, path: Parts, identity: bytes, found: os.stat_result) -> bool:
        """Return whether we wrote the file from `identity` (32 bytes), and its size and time are unchanged."""
        return self._knows(_done(path, identity, found.st_size, found.st_mtime_ns))

    def is_ours(self, path: Parts, sha256: bytes) -> bool:
        """Return whether we wrote a file with this content (SHA-256) at this path. Any thread may ask."""
        return self._knows(_ours(path, sha256))

    def close(self) -> None:
        """Free the memory."""
        self._known.close()

    def read(self, fd: int) -> int:
        """Read the complete lines of a journal; return where they end. Raises: UsageError for a foreign line."""
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
            # The lines of an older export have no SHA-256, except the manifest's, which has it as its identity.
            sha256 = bytes.fromhex(held.get("sha256", held["identity"]))
            self._learn(_done(path, identity, int(size), int(mtime_ns)), _ours(path, sha256))
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
            raise UsageError(
                f"line {number} of {self._place} was not written by this program: "
                "move the file away, or choose another folder"
            ) from None

    def _learn(self, *marks: bytes) -> None:
        with self._lock:
            for mark in marks:
                self._known.add(mark)

    def _knows(self, mark: bytes) -> bool:
        with self._lock:
            return mark in self._known


class Journal(Written):
    """An append-only journal file in the top folder of a tree."""

    def __init__(self, tree: TargetFolder, name: bytes) -> None:
        """Open the journal, or create it, and read it. A half-written line at its end is cut off.

        Raises: UsageError if a file of that name holds something else; InTheWayError, TreeError.
        """
        super().__init__(f"{tree.root}/{os.fsdecode(name)}")
        self.name = name
        self.is_new = True
        self._waiting: list[bytes] = []
        self._size = 0
        self._fd = tree.open_log(name)
        try:
            end = self.read(self._fd)
            self.is_new = end == 0
            if end != os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, end)
        except BaseException:
            self.close()
            raise

    def wrote(
        self, path: Parts, identity: bytes, found: os.stat_result, sha256: bytes, details: dict[str, Any]
    ) -> None:
        """Record a file that has its name, and its content's SHA-256 (32 bytes).

        The line is on disk when `sync` returns, or earlier. Raises: TreeError.
        """
        self._add(line_of(path, identity, found, sha256, details))
        self._learn(_done(path, identity, found.st_size, found.st_mtime_ns), _ours(path, sha256))

    def wrote_lines(self, lines: Sequence[bytes]) -> None:
        """Record files that have their names, in one go. This run does not ask about them again. Raises: TreeError."""
        self._waiting += lines
        self._flush()

    def _add(self, line: bytes) -> None:
        self._waiting.append(line)
        self._size += len(line)
        if self._size > _FLUSH_BYTES:
            self._flush()

    def wrote_content(self, path: Parts, sha256: bytes) -> None:
        """Record a file by its content (SHA-256), before it gets its name."""
        line = show_name("file", b"/".join(path)) | {
            "file_size": 0,
            "file_mtime_ns": 0,
            "identity": sha256.hex(),
            "sha256": sha256.hex(),
        }
        self._waiting.append(json.dumps(line, ensure_ascii=True).encode() + b"\n")
        self._learn(_ours(path, sha256))

    def sync(self) -> None:
        """Make every line durable. Raises: TreeError."""
        self._flush()
        try:
            sync_file(self._fd)
        except OSError as error:
            raise trouble(error, f"syncing {self._place}") from None

    def close(self) -> None:
        """Close the file. Lines that were not synced can be lost; the next run then compares those files again."""
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
            raise trouble(error, f"writing {self._place}") from None


def line_of(path: Parts, identity: bytes, found: os.stat_result, sha256: bytes, details: dict[str, Any]) -> bytes:
    """Return the line about a file that has its name; `sha256` is that of its content."""
    line = show_name("file", b"/".join(path)) | {
        "file_size": found.st_size,
        "file_mtime_ns": found.st_mtime_ns,
        "identity": identity.hex(),
        "sha256": sha256.hex(),
    }
    try:
        return orjson.dumps(line | details) + b"\n"
    except TypeError:  # a server's form can hold larger numbers, and surrogates
        return json.dumps(line | details, ensure_ascii=True).encode() + b"\n"


def written_in(root: Path, name: bytes) -> Written:
    """Return the files that a folder's journal lists, none if it has no journal. This writes nothing.

    Raises: UsageError if the journal cannot be read, or holds something else.
    """
    place = root / os.fsdecode(name)
    written = Written(str(place))
    try:
        fd = open_regular(place)
    except (FileNotFoundError, NotADirectoryError):
        return written
    except OSError as error:
        written.close()
        raise _unreadable(place, error) from None
    try:
        written.read(fd)
    except OSError as error:
        written.close()
        raise _unreadable(place, error) from None
    except UsageError:
        written.close()
        raise
    finally:
        os.close(fd)
    return written


def content_of(fd: int) -> tuple[os.stat_result, bytes]:
    """Return the status and the SHA-256 of an open file, and close it. Raises: OSError."""
    with os.fdopen(fd, "rb", buffering=0) as file:
        return os.fstat(file.fileno()), hashlib.file_digest(file, "sha256").digest()


def _done(path: Parts, identity: bytes, size: int, mtime_ns: int) -> bytes:
    return _mark(b"done", path, identity.hex().encode(), b"%d %d" % (size, mtime_ns))


def _ours(path: Parts, sha256: bytes) -> bytes:
    return _mark(b"ours", path, sha256.hex().encode())


def _mark(what: bytes, path: Parts, *parts: bytes) -> bytes:
    return hashlib.sha256(b"\x00".join((what, b"/".join(path), *parts))).digest()[:FINGERPRINT]


def _unreadable(place: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the journal {place} cannot be read ({error.strerror}): make it readable, or choose another folder"
    )


def _is_torn(line: bytes) -> bool:
    """Return whether a power cut damaged the line. Its lost bytes read as NUL, which JSON never contains.

    The lines after it are lost too. The next run finds their files again by comparing contents.
    """
    left, lost, _ = line.partition(b"\x00")
    return bool(lost) and (left.startswith(_BEGINNING) or _BEGINNING.startswith(left))


def show_name(field: str, name: bytes) -> dict[str, str]:
    """Return the name as JSON fields. A name that is not UTF-8 becomes escaped text, and base64 in a second field."""
    try:
        return {field: name.decode()}
    except UnicodeDecodeError:
        return {field: name.decode(errors="backslashreplace"), f"{field}_base64": base64.b64encode(name).decode()}


def read_name(field: str, held: dict[str, Any]) -> bytes:
    """Return the name that `show_name` wrote. Raises: ValueError, KeyError or TypeError if there is none."""
    encoded = held.get(f"{field}_base64")
    if encoded is not None:
        return base64.b64decode(encoded, validate=True)
    name: str = held[field]
    return name.encode()
