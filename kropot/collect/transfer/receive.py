"""Takes one content in: checks heads, hashes and writes bytes, and decides at the end whether to believe it.

Both engines feed it, so both believe the same. A transfer that broke off resumes only if the server gave a length and a
strong ETag, and only with bytes of the very same content (RFC 9110, 13.1.5 and 14.2). It can resume at once, or in
another process: from 1 MiB on, the bytes that came wait for the rest.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from kropot.collect.decide.inputs import NotReceived, Received
from kropot.collect.transfer.engine import MAX_RESUMES
from kropot.collect.transfer.kept import KeptNote, kept_name, read_note
from kropot.durable.errors import StorageError, StorageFullError
from kropot.sc2.layout import HEADER_BYTES, parse_header
from kropot.sc2.refused import RefusedError
from kropot.securecopy.content import (
    IV_HEADER,
    TAIL_BYTES,
    ContentHead,
    TailCheck,
    UnbelievableError,
    read_content_head,
)
from kropot.securecopy.sealed_form import differs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.collect.decide.inputs import Receipt
    from kropot.collect.transfer.engine import FetchJob
    from kropot.objects.store import ObjectStore, Upload
    from kropot.sc2.layout import ObjectHeader

HEADERS_THAT_MATTER = frozenset(
    {
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "transfer-encoding",
        IV_HEADER.lower(),
    }
)
"""The response headers that are used, in lower case. The one that carries the plain file name is not among them."""

WORTH_KEEPING = 1 << 20
"""From this length on, the received part of a content outlives its process."""

_ASK_AFTER = 64 << 20
_ASK_AFTER_S = 0.5
_ROOM_FOR_OTHERS = 64 << 20
_WORTH_RESUMING = 64 << 10
_PROGRESS = 64 << 10
"""An attempt that brought this many bytes counts as progress."""

_REFUSALS = frozenset({401, 403})
_OK = 200
_HTTP_1_1 = 11


class FreeSpace:
    """How much room a store has, for all contents of an engine: asked for again after 64 MiB or half a second."""

    __slots__ = ("_asked", "_free", "_keep", "_store", "_taken")

    def __init__(self, store: ObjectStore, keep: int) -> None:
        """Keep at least `keep` bytes free; 0 keeps none, and asks nothing."""
        self._store = store
        self._keep = keep
        self._free: int | None = None
        self._taken = _ASK_AFTER
        self._asked = 0.0

    def take(self, size: int) -> None:
        """Count `size` bytes that are about to be written.

        Raises:
            UnbelievableError: there is room for other contents, but not for this one ("no_room").
            StorageFullError: there is hardly any room.
            StorageError: the store cannot tell.
        """
        if not self._keep:
            return
        self._taken += size
        if self._taken >= _ASK_AFTER or monotonic() - self._asked >= _ASK_AFTER_S or not self._is_enough:
            self._free, self._taken, self._asked = self._store.free_bytes(), size, monotonic()
            if not self._is_enough:
                if self._free is not None and self._free - self._keep >= _ROOM_FOR_OTHERS:
                    raise UnbelievableError("no_room")
                raise StorageFullError(f"only {self._free} bytes are free, and {self._keep} must stay free")

    @property
    def _is_enough(self) -> bool:
        return self._free is None or self._free - self._taken >= self._keep


class ContentReceiver:
    """One job's content as received so far. `begin`, `write` and `finish` raise errors that `failed` translates."""

    __slots__ = (
        "_asked_at", "_clear", "_looked", "_received", "_resumes", "_space", "_store", "_tail", "_upload",
        "head", "job", "status",
    )  # fmt: skip

    def __init__(self, job: FetchJob, store: ObjectStore, space: FreeSpace) -> None:
        """Start with nothing received."""
        self.job = job
        self.head: ContentHead | None = None
        self.status: int | None = None
        self._store = store
        self._space = space
        self._upload: Upload | None = None
        self._tail = TailCheck()
        self._clear = b""
        self._received = 0
        self._looked = 0
        self._asked_at = 0
        self._resumes = 0

    @property
    def received(self) -> int:
        """Bytes of the content received so far."""
        return self._received

    @property
    def missing(self) -> int | None:
        """Bytes still to come, None if the server gave no length."""
        return None if self.head is None or self.head.length is None else self.head.length - self._received

    def begin(self, status: int, version: int, headers: Sequence[tuple[str, str]]) -> None:
        """Check an answer's head; `version` is 10 or 11, the headers' names are in lower case.

        Raises:
            UnbelievableError: no sound copy can follow it.
            StorageError: there is no room for it.
        """
        self.status = status
        head = read_content_head(status, headers, opaque=self.job.opaque, sc2=self._is_sc2, resumed_at=self._received)
        check_framing(version, headers)
        self._check_claims(head)
        if self.head is not None and head.offset:
            if (head.etag, head.iv, head.length) != (self.head.etag, self.head.iv, self.head.length):
                raise UnbelievableError("changed_midway")
            return
        # The server sends it from the start: what is here belongs to another answer, and the two are never mixed.
        self.abort()
        self.head = head
        self._space.take(head.length or 0)
        is_kept = head.length is not None and head.length >= WORTH_KEEPING and _is_strong(head.etag)
        self._upload = self._store.stage(kept_name(self.job.stream) if is_kept else None)
        if is_kept and head.etag is not None and head.length is not None:
            note = KeptNote(stream=self.job.stream, etag=head.etag, iv=head.iv, length=head.length, sealed=self._sealed)
            self._upload.keep(note.pack())

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the body.

        Raises:
            UnbelievableError: there are more than the server or the listing said.
            StorageError: they could not be written.
        """
        if self.head is None or self._upload is None:
            raise UnbelievableError("cut")
        if self.job.sealed is not None and len(self._clear) < HEADER_BYTES:
            self._check_header(self.job.sealed, chunk)
        self._received += len(chunk)
        bound = self.job.size if self.head.length is None else self.head.length
        if bound is not None and self._received > bound:
            raise UnbelievableError("wrong_length")
        if self._received - self._looked >= _ASK_AFTER:
            # These bytes are written already, so only check whether the rest still has room.
            self._looked = self._received
            self._space.take(0)
        self._tail.update(chunk)
        self._upload.write(chunk)

    def finish(self) -> Received:
        """Judge the whole content, which came to its proper end, and stage it.

        Raises:
            UnbelievableError: it is not a sound copy.
            StorageError: it could not be written.
        """
        if self.head is None or self._upload is None:
            raise UnbelievableError("cut")
        expected = self.job.size if self.head.length is None else self.head.length
        opaque = bool(self.job.opaque) or self.head.iv is not None
        self._tail.finish(opaque=opaque, sc2=self._is_sc2, expected=expected)
        if self._is_sc2 and len(self._clear) < HEADER_BYTES:
            raise UnbelievableError("not_sc2")
        staged = self._upload.finish()
        self._upload = None
        return Received(entry=self.job.entry, staged=staged, iv=self.head.iv)

    def conclude(self) -> Receipt:
        """Finish, and return the receipt; any thread may call this."""
        try:
            return self.finish()
        except (UnbelievableError, StorageError) as error:
            return self.failed(error)

    def take_up(self) -> dict[str, str] | None:
        """Continue what an earlier process received: return the headers that ask for the rest, None if it left nothing.

        Raises: StorageError.
        """
        name = kept_name(self.job.stream)
        found = self._store.take_up(name) if self._store.has_kept(name) else None
        if found is None:
            return None
        self._upload = found.upload
        note = read_note(found.note)
        is_ours = note is not None and (note.stream, note.sealed) == (self.job.stream, self._sealed)
        if note is None or not is_ours or found.upload.size > note.length:
            self.abort()
            return None
        self.head = ContentHead(length=note.length, etag=note.etag, iv=note.iv, type="")
        # What an earlier process kept of an object of `sc2` had this header, or it would not have been kept.
        self._clear = self._sealed or b""
        self._received = self._looked = self._tail.length = found.upload.size
        self._tail.tail = found.tail[-TAIL_BYTES:]
        return self.resume_headers()

    def resume_headers(self) -> dict[str, str] | None:
        """Return the headers that ask for the rest after a transfer broke off, or None where it must start again."""
        head = self.head
        if head is None or self._upload is None or head.length is None or head.etag is None:
            return None
        if self._received - self._asked_at >= _PROGRESS:
            self._resumes = 0
        is_worth_it = _is_strong(head.etag) and _WORTH_RESUMING <= self._received < head.length
        if not is_worth_it or self._resumes >= MAX_RESUMES:
            return None
        self._resumes += 1
        self._asked_at = self._received
        return {"Range": f"bytes={self._received}-", "If-Range": head.etag}

    def failed(self, error: UnbelievableError | StorageError | str) -> NotReceived:
        """Return why the content did not come; what broke off may wait for its rest, all else is forgotten."""
        if isinstance(error, str):
            self.suspend()
        else:
            self.abort()
        if isinstance(error, StorageError):
            return NotReceived(
                entry=self.job.entry, reason=error.reason, status=self.status, storage=True, detail=str(error)
            )
        reason = error if isinstance(error, str) else error.reason
        refused = self.status in _REFUSALS
        return NotReceived(entry=self.job.entry, reason=reason, status=self.status, refused=refused)

    def abort(self) -> None:
        """Remove what is here; a later `begin` starts again."""
        if self._upload is not None:
            self._upload.abort()
        self._forget()

    def suspend(self) -> None:
        """Leave what is here for `take_up` in another process, if it is worth it."""
        if self._upload is not None:
            self._upload.suspend()
        self._forget()

    def _forget(self) -> None:
        self._upload = None
        self.head = None
        self._tail = TailCheck()
        self._clear = b""
        self._received = self._looked = self._asked_at = 0

    @property
    def _is_sc2(self) -> bool:
        return self.job.sealed is not None

    @property
    def _sealed(self) -> bytes | None:
        """The bytes with which the object must begin, None if it is not one of `sc2`."""
        return None if self.job.sealed is None else self.job.sealed.encode()

    def _check_header(self, expected: ObjectHeader, chunk: bytes | memoryview) -> None:
        """Compare the clear header with the listed one as soon as it is here. Raises: UnbelievableError."""
        self._clear += bytes(chunk[: HEADER_BYTES - len(self._clear)])
        if len(self._clear) < HEADER_BYTES:
            return
        try:
            why = differs(parse_header(self._clear), expected)
        except RefusedError:
            why = "not_sc2"
        if why is not None:
            raise UnbelievableError(why)

    def _check_claims(self, head: ContentHead) -> None:
        claimed = self.job.etag
        if claimed is not None and head.etag is not None and _opaque_tag(claimed) != _opaque_tag(head.etag):
            raise UnbelievableError("etag_differs")
        if self.job.size is not None and head.length is not None and head.length != self.job.size:
            raise UnbelievableError("wrong_length")


def check_framing(version: int, headers: Sequence[tuple[str, str]]) -> None:
    """Refuse a body whose end cannot be told from a broken connection; the headers' names are in lower case.

    Raises:
        UnbelievableError: "close_delimited" if only the closed connection would end it, "ambiguous_head" if two headers
            say different things about its end.
    """
    coded: list[str] = []
    is_measured = False
    for name, value in headers:
        if name == "content-length":
            is_measured = True
        elif name == "transfer-encoding":
            coded.append(value.strip().lower())
    if coded and (is_measured or coded != ["chunked"] or version < _HTTP_1_1):
        raise UnbelievableError("ambiguous_head")
    if not coded and not is_measured:
        raise UnbelievableError("close_delimited")


def _is_strong(etag: str | None) -> bool:
    return etag is not None and etag.startswith('"')


def _opaque_tag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
