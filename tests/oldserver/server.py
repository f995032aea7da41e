"""The old server as a test uses it: in this process, on loopback, with rows, clock, zone, tokens and faults at hand.

    with OldServer({"a.txt": b"bread"}) as server:
        server.plan = first_visits(2, Status(500), "content")
        ...

Everything random comes from `seed`, so a run with the same requests sees the same bytes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Self

from kropot.securecopy.sealing import Kit
from tests.oldserver.faults import Delivery
from tests.oldserver.repository import Answer, Generated, Quirks, Repository, Request, Row, Token
from tests.oldserver.transport import Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from tests.oldserver.faults import Plan

TOKEN = "6e2d1b2a-0000-4000-8000-0f0d5a6b7c81"
OLDEST_AGE_S = 60
_PLAIN = Delivery()


class OldServer:
    """A File Repository of 2020 on a free port of 127.0.0.1; `encrypted` is whether its first token encrypts."""

    def __init__(
        self,
        files: Mapping[str, bytes | Generated] | None = None,
        *,
        token: str = TOKEN,
        encrypted: bool = True,
        kit: Kit | None = None,
        zone: str = "UTC",
        quirks: Quirks | None = None,
        plan: Plan | None = None,
        clock: Callable[[], int] | None = None,
        seed: int = 0,
        tls: ssl.SSLContext | None = None,
        keeps_log: bool = True,
    ) -> None:
        """Make a server with these files, dated one second apart, the last one a minute ago; `with` starts it.

        The kit has a single round, since a test is not the place to stretch a passphrase; pass another one if it is.
        """
        self.quirks = quirks or Quirks()
        self.plan = plan
        self.token = token
        self.kit = kit or Kit("bread and roses", rounds=1)
        self.requests: list[Request] = []
        self.url = ""
        self.connections: set[Connection] = set()
        self._clock = clock or (lambda: int(time.time()))
        self._seed = seed
        self._rng = Random(seed)
        self._tls = tls
        self._keeps_log = keeps_log
        self._lock = threading.RLock()
        self._visits: Counter[str] = Counter()
        self._scripted: dict[int, Callable[[], object]] = {}
        self._numbers = 0
        self._sessions: dict[str, asyncio.Lock] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.repository = Repository(clock=self.now, zone=zone, quirks=self.quirks, rng=self._rng)
        self.add_token(token, encrypted=encrypted)
        first = self.now() - OLDEST_AGE_S - len(files or {}) + 1
        for age, (name, content) in enumerate((files or {}).items()):
            self.repository.add(name, content, at=first + age)

    # --- its life ---

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, port: int = 0) -> None:
        """Listen; the same rows can be served again after a stop, on another port or this one."""
        ready: list[Any] = []
        told = threading.Event()

        def run() -> None:
            loop = _new_loop()
            asyncio.set_event_loop(loop)
            server = loop.run_until_complete(
                loop.create_server(lambda: Connection(self), "127.0.0.1", port, ssl=self._tls, backlog=1024)
            )
            self._loop = loop
            ready.append(server.sockets[0].getsockname()[1])
            told.set()
            loop.run_forever()
            server.close()
            for connection in tuple(self.connections):
                connection.abort()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

        self._thread = threading.Thread(target=run, name="oldserver", daemon=True)
        self._thread.start()
        if not told.wait(10):
            raise RuntimeError("the server did not start")
        self.url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{ready[0]}"
        self.repository.base_url = self.url

    def stop(self) -> None:
        """Close every connection and the port."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop = self._thread = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    # --- its time ---

    def now(self) -> int:
        """Return the server's clock in seconds since 1970."""
        return self._clock()

    def set_clock(self, now: int) -> None:
        """Stop the clock at this second."""
        self._clock = lambda: now

    def advance(self, seconds: int) -> None:
        self.set_clock(self.now() + seconds)

    def set_zone(self, zone: str) -> None:
        """Change the server's default zone: stored walls stay, so every listed date moves."""
        with self._lock:
            self.repository.zone = zone

    # --- its files ---

    def add(self, name: str, content: bytes | Generated, *, at: int | None = None, **rest: Any) -> None:
        """Upload a file, now or at that second (a late arrival if it lies back); see `Row` for the rest."""
        with self._lock:
            self.repository.add(name, content, at=self.now() if at is None else at, **rest)

    def add_many(self, names: Iterable[str], content: bytes | Generated, *, at: int) -> None:
        """Upload files within one second, all with the same content."""
        with self._lock:
            for name in names:
                self.repository.add(name, content, at=at)

    def delete(self, name: str) -> None:
        with self._lock:
            self.repository.delete(name)

    def replace(self, name: str, content: bytes | Generated, *, at: int | None = None) -> None:
        """Delete and add under the same name: the same id, a newer date, another content."""
        with self._lock:
            self.repository.delete(name)
            self.repository.add(name, content, at=self.now() if at is None else at)

    def replace_silently(self, name: str, content: bytes | Generated) -> None:
        """Change what is on the disk: id and date stay."""
        self._row(name).content = content

    def lose_on_disk(self, name: str) -> None:
        """The row stays listed, its content is 500."""
        self._row(name).content = None

    def shorten_on_disk(self, name: str, size: int) -> None:
        self._row(name).content = self.content(name)[:size]

    def fail_reading(self, name: str, at: int | None) -> None:
        """The disk fails at this byte of the ciphertext: 500 at 0, an appended page behind it; None heals it."""
        self._row(name).eio_at = at

    def poison(self, name: str) -> None:
        """Empty the row's zone: every page with it is 500 from now on."""
        self._row(name).tz = ""

    def cure(self, name: str, tz: str = "UTC") -> None:
        self._row(name).tz = tz

    def redate(self, name: str, at: int) -> None:
        """Change the stored date, as nobody should."""
        with self._lock:
            row = self._row(name)
            fresh = self.repository.add(f"{name} redated", b"", at=at)
            self.repository.delete(fresh.name)
            row.wall = fresh.wall
            self.repository.touch()

    def list_as(self, name: str, **fields: Any) -> None:
        """List a row with these fields instead of its own: hostile ids, odd dates, types and forms."""
        self._row(name).overrides.update(fields)

    def content(self, name: str) -> bytes:
        """Return the plain bytes of a file."""
        content = self._row(name).content
        if content is None:
            return b""
        return content if isinstance(content, bytes) else b"".join(content.chunks())

    def names(self) -> list[str]:
        with self._lock:
            return list(self.repository.by_name)

    def ids(self) -> dict[str, str]:
        """Return the id that the present token gives to each name."""
        with self._lock:
            token = self.repository.tokens[self.token]
            return {name: self.repository.id_for(token, row) for name, row in self.repository.by_name.items()}

    def id_of(self, name: str) -> str:
        return self.repository.id_for(self.repository.tokens[self.token], self._row(name))

    # --- its tokens ---

    def add_token(self, token: str, *, encrypted: bool = True, **rest: Any) -> Token:
        """Add a token, with the server's kit if it encrypts; its salt, and so every id, is its own."""
        made = Token(
            id=token,
            kit=self.kit if encrypted else None,
            stored_salt=self._rng.randbytes(48).hex(),
            **rest,
        )
        with self._lock:
            self.repository.tokens[token] = made
        return made

    def use_new_token(self, token: str, *, encrypted: bool = True) -> None:
        """Add a token and make it the present one: `ids` changes."""
        self.add_token(token, encrypted=encrypted)
        self.token = token

    def change_token(self, token: str | None = None, **fields: Any) -> None:
        """Change fields of a token, the present one if none is named: `roles`, `expires`, `allowed_user_agents`."""
        name = self.token if token is None else token
        with self._lock:
            self.repository.tokens[name] = replace(self.repository.tokens[name], **fields)

    def expire_token(self, token: str | None = None) -> None:
        self.change_token(token, expires=0)

    def revoke_token(self, token: str | None = None) -> None:
        with self._lock:
            del self.repository.tokens[self.token if token is None else token]

    # --- its script ---

    def before(self, number: int, action: Callable[[], object]) -> None:
        """Do this just before the request with this number (from 1) is answered: expire a token, add a file."""
        with self._lock:
            self._scripted[number] = action

    def asked(self, kind: str | None = None) -> list[Request]:
        """Return the requests so far, those of one kind ("list", "submitdata", "content", "other") if it is named."""
        with self._lock:
            return [request for request in self.requests if kind is None or request.kind == kind]

    # --- what its connections call, on its own thread ---

    def respond(self, request: Request) -> tuple[Answer, Delivery]:
        """Return the answer to a request and how it is delivered, after the plan's fault if there is one."""
        with self._lock:
            self._numbers += 1
            target = f"{request.method} {request.path}?{request.query}"
            self._visits[target] += 1
            request = replace(request, number=self._numbers, visit=self._visits[target])
            if self._keeps_log:
                self.requests.append(request)
            if (action := self._scripted.pop(self._numbers, None)) is not None:
                action()
            plan = self.plan
            fault = None if plan is None else plan(request)
            answer = self.repository.answer(request)
        if fault is None:
            return answer, _PLAIN
        rng = Random(f"{self._seed} {target} {request.visit}")
        return fault.alter(answer, request, rng), fault.deliver(_PLAIN, rng)

    def new_session(self) -> str:
        return self._rng.randbytes(13).hex()

    def session_lock(self, request: Request) -> asyncio.Lock | None:
        """Return the lock of the PHP session that a request brings along, None without one."""
        cookie = request.header("cookie")
        if cookie is None or not self.quirks.cookies:
            return None
        return self._sessions.setdefault(cookie, asyncio.Lock())

    def _row(self, name: str) -> Row:
        return self.repository.by_name[name]


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
