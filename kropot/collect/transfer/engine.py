"""What a transfer engine is asked to do, and what it needs to know about the server; it answers with receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from msgspec import Struct

from kropot.collect.decide.inputs import NotReceived
from kropot.secret import repr_without
from kropot.securecopy.timed import CONNECT_TIMEOUT_S, CONTENT_SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kropot.bandwidth import RateLimiter
    from kropot.collect.decide.inputs import Receipt
    from kropot.objects.store import ObjectStore
    from kropot.sc2.layout import ObjectHeader
    from ledger.events import StreamKey
    from ledger.replica import Entry

MAX_RESUMES = 5
"""How many times in a row a job may resume with little progress before it fails."""


class FetchJob(Struct, frozen=True, kw_only=True):
    """One content to fetch, for this entry; `path` begins with a slash (`content_path`).

    `stream` is the element's own key, under which its bytes wait if the transfer breaks off. `opaque` says whether the
    source's contents are sealed, None if that is not known. `size` in bytes and `etag` are the listing's claims, None
    if it makes none. `sealed` is the clear header of an object of `sc2`, as the list's form has it.
    """

    entry: Entry
    stream: StreamKey
    path: str
    opaque: bool | None = None
    size: int | None = None
    etag: str | None = None
    sealed: ObjectHeader | None = None


class Server(Struct, frozen=True, kw_only=True):
    """Where and how to ask for contents. The headers hold the token, so the repr leaves them out.

    `silence_s` bounds how long the server may be silent; `ca_file` is a PEM file of the authorities to trust instead of
    the usual ones. All engines of a process share the limiter, None without a limit.
    """

    base_url: str
    headers: Mapping[str, str]
    connect_s: float = CONNECT_TIMEOUT_S
    silence_s: float = CONTENT_SILENCE_S
    ca_file: str | None = None
    limiter: RateLimiter | None = None

    __repr__ = repr_without("headers")


def refusal_in(receipts: Sequence[Receipt]) -> NotReceived | None:
    """Return the first receipt that says that the token is refused: jobs that still wait MUST NOT be sent then."""
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
        """Return receipts as soon as there are any, after `timeout_s` at the latest; at once if nothing is in flight.

        The caller publishes or discards what a `Received` staged.
        """
        ...

    def close(self) -> None:
        """Break off what is in flight, at once; its jobs are never answered.

        Its bytes are removed, unless the rest of the same content can be asked for later.
        """
        ...


class EngineMaker(Protocol):
    """Makes an engine for one server and one store."""

    def __call__(self, server: Server, store: ObjectStore, *, keep_free: int = 0) -> TransferEngine:
        """Return an engine that stops writing when less than `keep_free` bytes would be left."""
        ...


def content_path(id_: str) -> str:
    """Return the path of an element's content."""
    return f"/secure-copy/file/{quote(id_, safe='')}/content"
