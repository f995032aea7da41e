"""What a transfer engine is asked to do, and what it needs to know about the server; it answers with receipts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from kropot.collect.decide.inputs import NotReceived
from kropot.securecopy.timed import CONNECT_TIMEOUT_S, STALL_TIMEOUT_S
from ledger.fast_init import fast_init

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kropot.collect.decide.inputs import Receipt
    from kropot.objects.store import ObjectStore
    from ledger.replica import Entry

MAX_RESUMES = 5
"""How often one job resumes where it broke off before it fails."""


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """One content to fetch, for this entry; `path` begins with a slash (`content_path`).

    `opaque` says whether the source's contents are sealed, None if that is not known. `size` in bytes and `etag` are
    the listing's claims, None if it makes none.
    """

    entry: Entry
    path: str
    opaque: bool | None = None
    size: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where and how contents are asked for. The headers hold the token, so the repr leaves them out.

    `total_s` bounds one whole transfer and `stall_s` the silence within it; `ca_file` is a PEM file of the authorities
    to trust instead of the usual ones.
    """

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    total_s: float = 7200.0
    connect_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    ca_file: str | None = None


def refusal_in(receipts: Sequence[Receipt]) -> NotReceived | None:
    """Return the first receipt that says that the token is refused: jobs that still wait MUST then not be sent."""
    return next((each for each in receipts if isinstance(each, NotReceived) and each.refused), None)


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

    def poll(self, timeout_s: float) -> list[Receipt]:
        """Return what has ended, as soon as anything has, after `timeout_s` at the latest; nothing in flight: at once.

        Whoever takes a `Received` publishes or discards what it staged.
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
