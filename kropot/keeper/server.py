"""Run a keeper: connect its parts, and set up the HTTP server with its bounds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct, field
from msgspec.structs import replace

from kropot.keeper.access import Admission
from kropot.keeper.answering import KeeperAnswers
from kropot.keeper.app import Keeper
from kropot.keeper.door import KeeperDoor
from kropot.keeper.sending import ObjectSender
from kropot.page.app import PageApp
from kropot.page.doors import OneTimeCodes
from kropot.query.health import Limits
from kropot.serving.guard import Bounds
from kropot.serving.listening import address_of, http_server, listen, serving_in_thread

if TYPE_CHECKING:
    from types import TracebackType

    import uvicorn

    from kropot.keeper.tokens import KeeperTokens
    from kropot.objects.opening import Storage
    from kropot.serving.listening import TlsFiles
    from ledger.log import Ledger

_ASKERS: Final = 4
_READERS: Final = 16


class KeeperOptions(Struct, frozen=True, kw_only=True):
    """How a keeper runs. `limits` say when the replica raises an alarm."""

    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    trusted_proxies: tuple[str, ...] = ()
    tls: TlsFiles | None = None


class KeeperService:
    """One replica and its application. `server` puts an HTTP server around it."""

    def __init__(
        self, ledger: Ledger, storage: Storage, tokens: KeeperTokens, options: KeeperOptions | None = None
    ) -> None:
        """Serve this replica to anyone who has one of these tokens. The caller closes the ledger, after this."""
        self.options = options or KeeperOptions()
        self.tokens = tokens
        self._objects = storage.reading().objects()
        self._door = ThreadPoolExecutor(2, thread_name_prefix="token")
        self._askers = ThreadPoolExecutor(_ASKERS, thread_name_prefix="ask")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="object")
        self._answers = answers = KeeperAnswers(ledger, storage, self.options.limits)
        self.codes = OneTimeCodes()
        door = KeeperDoor(ledger, answers, tokens, self.codes, is_secure=self.options.tls is not None)
        self.app = Keeper(
            ledger=ledger,
            answers=answers,
            page=PageApp(door, self._askers),
            admission=Admission(tokens, self._door),
            sender=ObjectSender(self._objects, self._readers),
            limits=self.options.limits,
            pool=self._askers,
        )

    def server(self) -> uvicorn.Server:
        """Return an HTTP server for the application, with bounds. Raises: KropotError if TLS cannot be used."""
        options = self.options
        # A keeper has no bulk requests, so the larger limit for their bodies does not apply.
        bounds = replace(options.bounds, bulk_bytes=options.bounds.body_bytes)
        return http_server(self.app, bounds, options.trusted_proxies, tls=options.tls)

    def close(self) -> None:
        """Cancel the queued work, end the threads when their running work is done, and close the objects."""
        for pool in (self._door, self._askers, self._readers):
            pool.shutdown(cancel_futures=True)
        self._answers.close()
        self._objects.close()


class KeeperServer:
    """A keeper on its own thread in this process, for tests and demonstrations."""

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        tokens: KeeperTokens,
        options: KeeperOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Prepare to serve. Port 0 takes a free port."""
        self.service = KeeperService(ledger, storage, tokens, options)
        self._address = (host, port)
        self._open = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        """Serve. Raises: KropotError as `listen` and `serving_in_thread`."""
        with ExitStack() as stack:
            stack.callback(self.service.close)
            listening = stack.enter_context(listen(*self._address))
            self.url = address_of(listening, "http" if self.service.options.tls is None else "https")
            stack.enter_context(serving_in_thread(self.service.server(), listening, "keeper"))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._open.close()
