"""A server on loopback that sends, byte for byte, what a test wrote down."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing for so many seconds, or until the server stops."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Close the connection; with `reset`, as a crash of the machine would."""

    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: its path, its headers by lower-case name, how often the path was asked before, and its body."""

    path: str
    headers: dict[str, str]
    earlier: int
    body: bytes = b""


Part = bytes | Wait | Hang


@dataclass
class ScriptedServer:
    """Answers each request with the parts that `script` gives for it, on kept-alive connections."""

    script: Callable[[Asked], Iterable[Part]]
    tls: ssl.SSLContext | None = None
    requests: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                connection, _ = self._socket.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self._open.add(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.add(connection)
            pending = b""
            while True:
                while b"\r\n\r\n" not in pending:
                    received = connection.recv(65536)
                    if not received:
                        return
                    pending += received
                head, _, pending = pending.partition(b"\r\n\r\n")
                fields = head.decode("latin-1").lower().split("\r\n")
                length = next((int(each.partition(":")[2]) for each in fields if each.startswith("content-length:")), 0)
                while len(pending) < length:
                    pending += connection.recv(65536)
                body, pending = pending[:length], pending[length:]
                if not self._answer(connection, head.decode("latin-1"), body):
                    return

    def _answer(self, connection: socket.socket, head: str, body: bytes) -> bool:
        first, *lines = head.split("\r\n")
        path = first.split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        with self._lock:
            earlier = sum(one.path == path for one in self.requests)
            asked = Asked(path=path, headers=headers, earlier=earlier, body=body)
            self.requests.append(asked)
        for part in self.script(asked):
            match part:
                case bytes():
                    connection.sendall(part)
                case Wait():
                    self._stopped.wait(part.seconds)
                case Hang():
                    if part.reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return False
        return True


def head(status: int = 200, version: str = "1.1", **fields: str | None) -> bytes:
    """Return an answer's head: a believable one, but for the fields given (`Content_Type`, None leaves one out)."""
    known: dict[str, str | None] = {
        "Content-Type": "application/octet-stream",
        "Encryption-Initialization-Vector": "00112233445566778899aabbccddeeff",
    }
    known |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in known.items() if value is not None]
    return "\r\n".join([f"HTTP/{version} {status} Whatever", *lines, "", ""]).encode("latin-1")


def measured(body: bytes, status: int = 200, **fields: str | None) -> bytes:
    """Return an answer with a Content-Length."""
    return head(status, **({"Content_Length": str(len(body))} | fields)) + body


def chunked(*chunks: bytes, status: int = 200, end: bytes = b"0\r\n\r\n", **fields: str | None) -> bytes:
    """Return an answer in chunks, ended by `end`."""
    coded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head(status, **({"Transfer_Encoding": "chunked"} | fields)) + coded + end
