"""A separate process that makes list pages, so that they take no processor time from serving contents.

It uses the gateway's database, but reads no file of the folder. Nothing depends on it: if it cannot make a page, the
gateway does, or reports why that fails.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

import msgpack
from msgspec.structs import asdict

from kropot.gateway.births import Births
from kropot.gateway.entries import Sealings
from kropot.gateway.keptforms import KeptForms
from kropot.gateway.keys import MasterKey
from kropot.gateway.listing import PageWanted, build_page
from kropot.gateway.revocations import Revocations
from kropot.gateway.state import FileRow, open_state
from kropot.gateway.telling import Tellings
from kropot.gateway.tokens import TokenBook
from kropot.logs import log
from kropot.processes import ChildProcess
from ledger.events import Unserved

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import TracebackType

    from kropot.gateway.state import State
    from kropot.gateway.token import Token

_NOTHING: Final = b""


class PageProcess:
    """Makes list pages of one gateway in a separate process, one at a time. Any thread can ask for one."""

    def __init__(self, *, state_url: str, master_key: bytes, revocations: Path) -> None:
        """Start the process. It opens the database at the first request, and ends with this process."""
        self._process: ChildProcess | None = ChildProcess(_serve, state_url, master_key, revocations)
        self._is_free = threading.Lock()

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()

    def page(self, token: Token, wanted: PageWanted) -> tuple[bytes, list[tuple[str, FileRow]]] | None:
        """Return what `build_page` returns, or None if the process is busy or cannot make the page."""
        if self._process is None or not self._is_free.acquire(blocking=False):
            return None
        try:
            (link,) = self._process.links
            unserved = None if wanted.unserved is None else asdict(wanted.unserved)
            link.send_bytes(_packed([token.id, *wanted._replace(unserved=cast("Any", unserved))]))
            answer = link.recv_bytes()
        except (OSError, EOFError):
            # It was killed, usually because memory ran out.
            log.warning("page_process_ended", hint="the gateway makes list pages itself until it restarts")
            ended, self._process = self._process, None
            ended.kill()
            ended.end()
            return None
        finally:
            self._is_free.release()
        if answer == _NOTHING:
            return None
        page, rows = msgpack.unpackb(answer, raw=False, use_list=False)
        return page, [(element, FileRow(*row)) for element, row in rows]


class _Maker(NamedTuple):
    """The parts that make pages in the process."""

    state: State
    book: TokenBook
    tellings: Tellings


def _serve(links: list[Connection], state_url: str, master_key: bytes, revocations: Path) -> None:
    """Answer the parent until it closes its end of the pipe."""
    (link,) = links
    maker: _Maker | None = None
    while True:
        token_id, *wanted = msgpack.unpackb(link.recv_bytes(), raw=False)
        try:
            maker = maker or _maker(state_url, master_key, revocations)
            answer = _made(maker, token_id, PageWanted(*wanted))
        except Exception:  # noqa: BLE001 -- the parent makes the page itself, and says what is wrong
            answer = _NOTHING
        link.send_bytes(answer)


def _maker(state_url: str, master_key: bytes, revocations: Path) -> _Maker:
    state, master = open_state(state_url, create=False), MasterKey(master_key)
    book = TokenBook(state, master, revocations=Revocations(revocations))
    source = state.source().uid
    births = Births(state, master, book.vaults, source, time.time_ns)
    return _Maker(state, book, Tellings(state, Sealings(source), births, KeptForms(master)))


def _made(maker: _Maker, token_id: str, wanted: PageWanted) -> bytes:
    token = maker.book.find(token_id)
    if token is None:
        return _NOTHING
    if wanted.unserved is not None:
        wanted = wanted._replace(unserved=Unserved(**cast("Any", wanted.unserved)))
    page, files = build_page(maker.state, maker.tellings, token, wanted)
    return _packed([page, files])


def _packed(value: object) -> bytes:
    return cast("bytes", msgpack.packb(value, use_bin_type=True))
