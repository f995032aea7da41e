"""A wire between an owner and a keeper: it keeps every byte that the owner sends, and can cut what comes back."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Wire:
    """Passes connections on to a keeper. `sent` is what went there."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.sent = bytearray()
        self.cut_after: list[int] = []
        """Of the next connections: after how many bytes of answers each is cut."""
        self.dies_after: int | None = None
        """After how many further bytes of answers the keeper is gone, and no connection is accepted any more."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A process that is not alone in its threads does not fork, so tests that come later need these to end.
        for each in (self._listening, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        """Close all connections, so that `cut_after` is about the next request."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def requests(self) -> list[str]:
        """The first lines of the requests that were sent."""
        return [line.decode() for line in bytes(self.sent).split(b"\r\n") if line.endswith(b" HTTP/1.1")]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                owner, _ = self._listening.accept()
                if self.dies_after is not None and self.dies_after <= 0:
                    owner.close()
                    continue
                keeper = socket.create_connection(self._to)
                limit = self.cut_after.pop(0) if self.cut_after else None
                self._sockets += [owner, keeper]
                self._start(self._there, owner, keeper)
                self._start(self._back, keeper, owner, limit)

    def _there(self, owner: socket.socket, keeper: socket.socket) -> None:
        with suppress(OSError):
            while data := owner.recv(1 << 16):
                self.sent += data
                keeper.sendall(data)
        # Closing it would leave the other thread waiting at a socket that nobody can wake.
        with suppress(OSError):
            keeper.shutdown(socket.SHUT_RDWR)

    def _back(self, keeper: socket.socket, owner: socket.socket, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := keeper.recv(1 << 16):
                passed += len(data)
                if self.dies_after is not None:
                    left, self.dies_after = self.dies_after, self.dies_after - len(data)
                    if left < len(data):
                        owner.sendall(data[: max(left, 0)])
                        break
                if limit is not None and passed > limit:
                    owner.sendall(data[: len(data) - (passed - limit)])
                    break
                owner.sendall(data)
        with suppress(OSError):
            owner.shutdown(socket.SHUT_RDWR)
