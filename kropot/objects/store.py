"""What an object store promises, and the values that it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, Protocol

from msgspec import Struct

from kropot.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kropot.durable.errors import StorageError
    from ledger.places import Placement

CHUNK = 1 << 20
"""Bytes read or written at a time: an object never takes more memory than this."""


class ObjectMissingError(IntegrityError):
    """The store holds no object of this name."""

    def __init__(self, sha256: bytes) -> None:
        """Remember the object's SHA-256 (32 bytes)."""
        super().__init__(f"the store does not hold the object {sha256.hex()}")
        self.sha256 = sha256


class Staged(Struct, frozen=True, kw_only=True):
    """A completely written object that has no name yet and might not be durable: its SHA-256 (32 bytes) and size.

    `path` is where it waits ("" if it has no file); `pending` belongs to the store that staged it.
    """

    path: str
    sha256: bytes
    size: int
    pending: object = None


class Published(NamedTuple):
    """The object is durable under its name, and so is the name: an event may name it now.

    `existed` says that a sound object of this name was there before. `set_aside` is where a damaged one of the same
    name was moved, or None. `place` is where it is in a pack, None if it has a file of its own; a caller that records
    the object MUST record the place with it.
    """

    sha256: bytes
    size: int
    existed: bool = False
    set_aside: str | None = None
    place: Placement | None = None


class PublishError(Struct, frozen=True, kw_only=True):
    """The object was not made durable: no event may name it, and its element MUST be fetched again."""

    sha256: bytes
    size: int
    error: StorageError


class Leftover(Struct, frozen=True, kw_only=True):
    """A file in the store that is not an object: `path` is relative to the store's root, `size` in bytes.

    "temporary" is an upload of `instance` that never ended; "stray" has a name that no object has; "quarantined" is an
    object that `set_aside` moved.
    """

    kind: Literal["temporary", "stray", "quarantined"]
    path: str
    size: int
    instance: str | None = None


class Upload(Protocol):
    """An object on its way in; exactly one of `finish` and `abort` ends it."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, which the caller may reuse afterwards. Raises: StorageError."""
        ...

    def finish(self) -> Staged:
        """End the object and hand it over for `publish`. Raises: StorageError, after which the upload is aborted."""
        ...

    def abort(self) -> None:
        """Forget the written bytes; do nothing after `finish` or a second time."""
        ...

    def keep(self, note: bytes) -> None:
        """From now on, let the written bytes outlive their writer, if the upload has a name and the store can do it.

        `ObjectStore.take_up` returns `note`.
        """
        ...

    def suspend(self) -> None:
        """End the upload as `abort` does, but leave the bytes that `keep` kept."""
        ...


class TakenUp(Struct, frozen=True, kw_only=True):
    """An upload that continues, the note that it was kept with, and its last bytes (4096 of them, or all)."""

    upload: Upload
    note: bytes
    tail: bytes


class ObjectStore(Protocol):
    """Immutable objects named by the SHA-256 of their bytes."""

    def lock(self) -> None:
        """Take the right to write under this instance's name, until `close`.

        Raises: LockedError while another living process holds it; StorageError.
        """
        ...

    def stage(self, name: str | None = None) -> Upload:
        """Start an object; take the instance's name if that was not done yet. Raises: LockedError, StorageError.

        The bytes that an upload with a `name` (letters and digits) keeps can be taken up under that name. Only one
        upload at a time has it; a second one is treated as if it had none.
        """
        ...

    def stage_whole(self, data: bytes, sha256: bytes) -> Staged:
        """Hand over a complete object for `publish`; nothing is written before that.

        The caller has computed `sha256` over `data` itself. Raises: LockedError, StorageError.
        """
        ...

    def has_kept(self, name: str) -> bool:
        """Whether an earlier upload of this name, in any process of this instance, kept something. Cheap."""
        ...

    def take_up(self, name: str) -> TakenUp | None:
        """Continue an upload with the bytes that it kept; return None if there are none that can be trusted.

        All of them are read and compared with their SHA-256, which takes a while. Raises: StorageError.
        """
        ...

    def publish(self, batch: Sequence[Staged]) -> list[Published | PublishError]:
        """Make every object of the batch durable, then name it, then make the names durable; return results in order.

        An object that is not `Published` is gone and MUST be fetched again.
        """
        ...

    def discard(self, batch: Sequence[Staged]) -> None:
        """Forget staged objects that will not be published."""
        ...

    def open(self, sha256: bytes) -> BinaryIO:
        """Open an object for reading, unbuffered. Raises: ObjectMissingError, StorageError."""
        ...

    def size(self, sha256: bytes) -> int | None:
        """Return the object's size in bytes, None if it is not there. Raises: StorageError."""
        ...

    def holds(self, sha256: bytes, size: int, place: Placement | None = None) -> bool:
        """Return whether the object is there, with this size. `place` is where `publish` just put it, if in a pack.

        Raises: StorageError.
        """
        ...

    def walk(self, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, int]]:
        """Yield (SHA-256, size) of every object with start <= SHA-256 < end, in order. Raises: StorageError."""
        ...

    def set_aside(self, sha256: bytes) -> str:
        """Move an object into quarantine, durably, and return where it is now; nothing is ever overwritten there.

        Raises: ObjectMissingError, StorageError.
        """
        ...

    def leftovers(self) -> Iterator[Leftover]:
        """Yield every file that is not an object. Raises: StorageError."""
        ...

    def clean_own_leftovers(self, wants: Callable[[bytes], bool]) -> int:
        """Remove the files that an earlier process of this instance name left unfinished; return how many there were.

        Bytes that an upload kept stay if `wants` returns true for its note.

        MUST be called before the first `stage`. Raises: LockedError, StorageError.
        """
        ...

    def free_bytes(self) -> int | None:
        """Return how many bytes of room are left, None if that is not known. Raises: StorageError."""
        ...

    def close(self) -> None:
        """Release the instance's name; staged objects that were not published become leftovers."""
        ...
