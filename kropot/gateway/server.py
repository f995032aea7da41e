"""Runs the gateway: connects its parts, scans the folder, and starts the HTTP server with its bounds."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Struct, field
from msgspec.structs import asdict

from kropot.errors import KropotError, UsageError
from kropot.gateway.access import Access
from kropot.gateway.ahead import Ahead
from kropot.gateway.app import Gateway
from kropot.gateway.batch import BulkAnswers
from kropot.gateway.births import Births
from kropot.gateway.bulk import Bulk
from kropot.gateway.catalogue import HASH_UP_TO, SETTLE_NS, Catalogue
from kropot.gateway.commands import CommandStoppedError, ScanCommands
from kropot.gateway.contents import STREAMS, Contents
from kropot.gateway.entries import Sealings
from kropot.gateway.keptforms import KeptForms
from kropot.gateway.keys import MasterKey
from kropot.gateway.kits import keep_kit, refuse_inside
from kropot.gateway.recent import RecentFiles
from kropot.gateway.revocations import Revocations
from kropot.gateway.scanreport import ScanReport
from kropot.gateway.selection import ServedSelection, named
from kropot.gateway.serving import Blocks
from kropot.gateway.sources import FolderSource
from kropot.gateway.standing import ServiceStanding
from kropot.gateway.state import open_state, sqlite_file
from kropot.gateway.telling import Tellings
from kropot.gateway.tokens import TokenBook
from kropot.logs import log
from kropot.serving.guard import Bounds
from kropot.serving.listening import address_of, http_server, listen, serving_in_thread
from kropot.serving.pools import Opens, Turns
from kropot.wording import counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import uvicorn
    from starlette.types import ASGIApp

    from kropot.gateway.pages import PageProcess
    from kropot.gateway.state import State
    from kropot.sc2.kit import OwnerKit
    from ledger.events import Unserved


_SETTLING_ROUNDS: Final = 5


class GatewayOptions(Struct, frozen=True, kw_only=True):
    """How a gateway runs. Times are in seconds, sizes in bytes.

    `kits` is the folder for the kits of keys that were requested over HTTP, and `revocations` the folder of revoked
    tokens (see `Revocations`). `trusted_proxies` are the addresses whose X-Forwarded-For header is trusted. `moved`
    says that the folder of this database has a new path. `selection` is what is served, and `commands` run before and
    after each scan.
    """

    kits: Path
    revocations: Path
    base_url: str | None = None
    scan_every_s: float = 30.0
    settle_s: float = SETTLE_NS / 1e9
    hash_up_to: int = HASH_UP_TO
    bounds: Bounds = field(default_factory=Bounds)
    trusted_proxies: tuple[str, ...] = ()
    moved: bool = False
    selection: ServedSelection = field(default_factory=ServedSelection)
    commands: ScanCommands = field(default_factory=ScanCommands)


class Service:
    """One folder, one database and one application. `server` puts an HTTP server around them."""

    def __init__(
        self,
        *,
        source: Path,
        state_url: str,
        master_key: bytes,
        options: GatewayOptions,
        clock_ns: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = os.urandom,
        pages: PageProcess | None = None,
    ) -> None:
        """Open the folder and the database. List pages are made by the process `pages`, if there is one.

        Raises:
            UsageError: the folder cannot be served, or the database or the kits are inside it.
            StateError, WrongKeyError, RevocationsError: see `open_state`, `TokenBook` and its `agree_on_revocations`.
        """
        root = Path(os.path.realpath(source))
        # A symlink inside can name the folder by the path that the owner uses for it.
        self.tree = FolderSource(
            os.fsencode(root), os.fsencode(source.absolute()), place=options.selection.at(named(source))
        )
        refuse_inside(root, sqlite_file(state_url), options.kits)
        self.state = open_state(state_url, create=True, entropy=entropy)
        try:
            master = MasterKey(master_key)
            self.book = TokenBook(
                self.state,
                master,
                clock_s=lambda: clock_ns() // 1_000_000_000,
                entropy=entropy,
                revocations=Revocations(options.revocations),
            )
            self.book.agree_on_revocations()
            self.source = self.state.source()
            _claim(self.state, self.source.root, self.tree.root, moved=options.moved)
        except BaseException:
            self.state.close()
            raise
        self.options = options
        self.catalogue = Catalogue(
            self.state,
            self.tree,
            clock_ns=clock_ns,
            settle_ns=round(options.settle_s * 1e9),
            hash_up_to=options.hash_up_to,
            entropy=entropy,
            master=master,
        )
        self.clock_s: Callable[[], int] = lambda: clock_ns() // 1_000_000_000
        self.last_scan_s: int | None = None
        self.standing = ServiceStanding(self.state, self.clock_s)
        self._told: Unserved | None = None
        self._lists = ThreadPoolExecutor(2, thread_name_prefix="list")
        self._lookups = ThreadPoolExecutor(4, thread_name_prefix="lookup")
        self._opens = Opens()
        self._reads = ThreadPoolExecutor(STREAMS, thread_name_prefix="content")
        sealings, recent = Sealings(self.source.uid), RecentFiles()
        births = Births(self.state, master, self.book.vaults, self.source.uid, clock_ns)
        access = Access(self.book, self._lookups, self.clock_s)
        self.pulls = access.used
        contents = Contents(
            state=self.state,
            tree=self.tree,
            catalogue=self.catalogue,
            sealings=sealings,
            births=births,
            blocks=Blocks(),
            access=access,
            recent=recent,
            lookups=self._lookups,
            opens=self._opens,
            reads=self._reads,
        )
        tellings = Tellings(self.state, sealings, births, KeptForms(master))
        self._ahead = Ahead(self.state, tellings, self.book, lambda: clock_ns() // 1_000_000_000)
        turns = Turns()
        batches = BulkAnswers(
            state=self.state,
            tree=self.tree,
            catalogue=self.catalogue,
            sealings=sealings,
            births=births,
            recent=recent,
        )
        self.app: ASGIApp = Gateway(
            state=self.state,
            catalogue=self.catalogue,
            standing=self.standing,
            book=self.book,
            sealings=sealings,
            births=births,
            tellings=tellings,
            access=access,
            contents=contents,
            bulk=Bulk(batches=batches, access=access, opens=self._opens, turns=turns),
            recent=recent,
            lists=self._lists,
            lookups=self._lookups,
            opens=self._opens,
            turns=turns,
            keep_kit=lambda kit: keep_kit(kit, options.kits),
            clock_s=lambda: clock_ns() // 1_000_000_000,
            base_url=options.base_url,
            pages=pages,
        )

    def close(self) -> None:
        """End the threads and close the connections."""
        for pool in (self._lists, self._lookups, self._reads):
            pool.shutdown(cancel_futures=True)
        self._opens.shutdown()
        self.catalogue.keep_learnt()
        self.state.close()

    def scan(self, stop: threading.Event) -> ScanReport:
        """Scan the folder between the owner's commands. Return when all files have settled, or after a few rounds.

        Raises:
            CommandFailedError, OSError: a command failed, or the folder cannot be read. Lists report this.
        """
        try:
            with self.options.commands.around(stop):
                report = self._scan(stop)
        except CommandStoppedError:
            return ScanReport(stopped=True)
        except Exception:
            self.standing.failed()
            raise
        self.standing.scanned(report)
        self.last_scan_s = self.clock_s()
        self._ahead.prepare(stop.is_set)
        self._log(report)
        return report

    def _scan(self, stop: threading.Event) -> ScanReport:
        """Scan the folder, then look again at unsettled files."""
        report = latest = self.catalogue.scan(stop=stop.is_set, patient=True)
        for _ in range(_SETTLING_ROUNDS):
            if not latest.unsettled or stop.wait(self.options.settle_s):
                break
            if not self.catalogue.is_ready or latest.unsettled > len(latest.young):
                latest = self.catalogue.scan(stop=stop.is_set)
            else:
                latest = self.catalogue.revisit(latest.young)
            report.new += latest.new
            report.changed += latest.changed
            report.kept += latest.kept
            report.gone += latest.gone
        report.unsettled = latest.unsettled
        return report

    def _log(self, report: ScanReport) -> None:
        """Log what a scan found, and warn about what got worse. A log must not contain file names."""
        if report.misplaced:
            log.warning(
                "folder_empty",
                hint="this is not the folder that held the files: check that it is mounted; nothing was removed",
            )
        unserved, told = report.unserved, self._told
        self._told = unserved
        if unserved.unreadable and (told is None or unserved.unreadable != told.unreadable):
            log.warning(
                "unreadable",
                folders=report.unreadable_count,
                files=report.locked,
                reasons=" ".join(sorted({each.reason for each in report.unreadable})),
                hint="they are not backed up: run `kropotcli gateway check` as the gateway's user, which names them",
            )
        if unserved.links and (told is None or unserved.links != told.links):
            log.warning(
                "links_not_served",
                links=unserved.links,
                hint="they lead to folders, to the outside, or to nothing: `kropotcli gateway check` names them",
            )
        moved = report.new or report.changed or report.gone or unserved.unreadable or unserved.unsettled
        (log.info if moved else log.debug)(
            "folder_scanned",
            files=report.files,
            new=report.new,
            changed=report.changed,
            same_content=report.kept,
            gone=report.gone,
            restless=report.restless,
            unread=len(report.doubtful),
            not_served=counts(asdict(unserved)),
        )

    def scan_forever(self, stop: threading.Event, *, first: bool = True) -> None:
        """Scan repeatedly until `stop` is set. A failed scan is logged, and the next scan tries again."""
        wait_s = 0.0 if first else self.options.scan_every_s
        while not stop.wait(wait_s):
            began = time.monotonic()
            try:
                self.book.agree_on_revocations()
                self.scan(stop)
            except Exception as error:  # noqa: BLE001 - scanning must continue after a failed scan
                # No traceback, because a log must not contain file names.
                known = str(error) if isinstance(error, KropotError) else getattr(error, "strerror", None)
                log.warning("scan_failed", reason=known or type(error).__name__)
            # Scanning a big folder takes at most half of the time.
            wait_s = max(self.options.scan_every_s, time.monotonic() - began)

    def server(self) -> uvicorn.Server:
        """Return an HTTP server for the application, with bounds."""
        return http_server(self.app, self.options.bounds, self.options.trusted_proxies)


class GatewayServer:
    """A gateway on its own thread in this process, for tests and demonstrations.

        with GatewayServer(folder, "sqlite:///gateway.db", master_key) as gateway:
            token, kit = gateway.create_token({"roles": ["securecopy.stream"], "expires": "never", "data": {...}})

    The gateway scans the folder once at the start, and then whenever `rescan` is called.
    """

    def __init__(
        self,
        source_dir: Path,
        state_url: str,
        master_key: bytes,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        kits: Path | None = None,
        revocations: Path | None = None,
        settle_s: float = SETTLE_NS / 1e9,
        clock_ns: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = os.urandom,
        **options: Any,
    ) -> None:
        """Prepare to serve `source_dir`. Port 0 takes a free port. `options` are further fields of GatewayOptions."""
        self._source = source_dir
        self._state_url = state_url
        self._master_key = master_key
        self._address = (host, port)
        self._clock_ns = clock_ns
        self._entropy = entropy
        file = sqlite_file(state_url)
        near = file.parent if file is not None else Path.cwd()
        self._options = GatewayOptions(
            kits=kits or near / "kits", revocations=revocations or near / "revoked", settle_s=settle_s, **options
        )
        self._open = ExitStack()
        self._stop = threading.Event()
        self.url = ""

    def __enter__(self) -> Self:
        """Scan the folder, then serve it.

        Raises:
            KropotError: the HTTP server did not start, or as `Service` and `listen`.
        """
        with ExitStack() as stack:
            self.service = Service(
                source=self._source,
                state_url=self._state_url,
                master_key=self._master_key,
                options=self._options,
                clock_ns=self._clock_ns,
                entropy=self._entropy,
            )
            stack.callback(self.service.close)
            self.service.scan(self._stop)
            listening = listen(*self._address)
            stack.callback(listening.close)
            self.url = address_of(listening)
            server = self.service.server()
            stack.enter_context(serving_in_thread(server, listening, "gateway", ending=self._stop.set))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._open.close()

    def create_token(self, spec: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        """Create a token. Return its id, and its kit if the gateway made the key."""
        created = self.service.book.create(spec)
        return created.token.id, created.kit

    def create_vault_token(self, spec: dict[str, Any], vault: str | None = None) -> tuple[str, OwnerKit]:
        """Create a token of sc2, for a new vault or the one whose id begins with `vault`. Return its id and kit."""
        created = self.service.book.create(spec, keeps_given_key=True, vault=vault)
        if created.vault_kit is None:
            raise ValueError('the specification does not ask for the method "sc2"')
        return created.token.id, created.vault_kit

    def rescan(self) -> ScanReport:
        """Scan the folder now. Return when all changes are on the list."""
        return self.service.scan(self._stop)


def _claim(state: State, known: bytes | None, root: bytes, *, moved: bool) -> None:
    """Bind the database to a folder. Raises: UsageError if it belongs to another folder."""
    if known == root:
        return
    if known is not None and not moved:
        raise UsageError(
            f"the database {state.place} belongs to the folder {os.fsdecode(known)}: if that folder has moved to "
            f"{os.fsdecode(root)}, add --moved; for a different folder, name another database with --state"
        )
    state.keep_root(root)
