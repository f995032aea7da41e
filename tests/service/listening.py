"""What hears calls in tests: an HTTP server for pings, and a socket for sd_notify."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Pings:
    """Takes POST requests: `heard` are their paths and bodies. `behave` may hang, or return another status."""

    behave: Callable[[], int] = lambda: 200
    heard: list[tuple[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        pings = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                pings.heard.append((self.path, body))
                self.send_response(pings.behave())
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def hang(self) -> int:
        """Answer nothing before the test ends."""
        self.released.wait(60)
        return 200

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.heard]


class Manager:
    """A service manager's socket, which is always read: what it does not take, the program drops."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._seen = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, text: str, within_s: float = 40) -> str:
        """Return the first message that begins so, after the one that was waited for before."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            while self._seen < len(self.messages):
                self._seen += 1
                if self.messages[self._seen - 1].startswith(text):
                    return self.messages[self._seen - 1]
            time.sleep(0.02)
        raise AssertionError(f"no {text} in {self.messages}")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            self.messages.append(message.decode())
