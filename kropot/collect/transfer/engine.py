"""What a transfer engine is asked, what it answers, and what it needs to know about the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from kropot.securecopy.timed import CONNECT_TIMEOUT_S, STALL_TIMEOUT_S
from ledger.fast_init import fast_init

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kropot.objects.store import ObjectStore, Staged

STORAGE_REASONS = frozenset({"storage_error", "storage_full", "storage_discarded"})
"""Reasons that are the object store's own: they say nothing against the element or the server."""

MAX_RESUMES = 5
"""How often one job goes on where it broke off, before it fails."""


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """One content to fetch: `number` is the caller's own name for it, `path` begins with a slash (`content_path`).

    `opaque` is whether the source's contents are encrypted, None where that is not known; `size` in bytes and `etag`
    are the listing's claims, None where it makes none.
    """

    number: int
    path: str
    opaque: bool | None = None
    size: int | None = None
    etag: str | None = None


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A believable content is staged, `size` bytes of it, with its IV (16 bytes) where it is encrypted."""

    job: FetchJob
    staged: Staged
    iv: bytes | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Nothing believable came, and nothing is left behind.

    `reason` is a stable word without names or secrets, `status` the HTTP status where one came. `refused` says that it
    is the token (401, 403). `detail` is a sentence for a log where the object store failed.
    """

    job: FetchJob
    reason: str
    status: int | None = None
    refused: bool = False
    detail: str = ""

    @property
    def is_storage(self) -> bool:
        """Whether the object store failed, not the server: no attempt of the element's."""
        return self.reason in STORAGE_REASONS


FetchResult = Got | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where and how contents are asked for. The headers hold the token and are no part of the repr.

    `total_s` bounds one whole transfer and `stall_s` the silence within it; `ca_file` is a PEM file of the authorities
    to trust instead of the usual ones.
    """

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    total_s: float = 7200.0
    connect_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    ca_file: str | None = None


def refusal_in(results: Sequence[FetchResult]) -> Failed | None:
    """Return the first result that says that the token is refused: what still waits MUST then not be sent."""
    return next((each for each in results if isinstance(each, Failed) and each.refused), None)


class TransferEngine(Protocol):
    """Fetches contents, several at a time; all methods are for one thread."""

    @property
    def name(self) -> str:
        """Which engine this is, for a log."""
        ...

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet answered."""
        ...

    def submit(self, jobs: Sequence[FetchJob]) -> None:
        """Take more jobs; they begin as earlier ones end."""
        ...

    def poll(self, timeout_s: float) -> list[FetchResult]:
        """Return what has ended, as soon as anything has, after `timeout_s` at the latest; nothing in flight: at once.

        Whoever takes a `Got` publishes or discards what is staged.
        """
        ...

    def close(self) -> None:
        """Break off what is in flight, at once; its bytes are removed and its jobs are never answered."""
        ...


class EngineMaker(Protocol):
    """Makes an engine for one server and one store."""

    def __call__(self, server: Server, store: ObjectStore, *, keep_free: int = 0) -> TransferEngine:
        """Return an engine that stops writing where less than `keep_free` bytes would be left."""
        ...


def content_path(id_: str) -> str:
    """Return the path of an element's content."""
    return f"/secure-copy/file/{quote(id_, safe='')}/content"
