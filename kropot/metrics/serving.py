"""Serves `/metrics` from a separate thread, and writes the same text to a file for a node exporter.

It needs no token, because the metrics hold only counts, times and labels. It answers only this path, at one address.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

from kropot.durable.newfile import temporary_file
from kropot.errors import KropotError
from kropot.metrics.text import METRICS_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

AT_ONCE: Final = 8
"""How many scrapes are answered at once. More are refused."""

SILENCE_S: Final = 10.0


class MetricsServer:
    """Answers scrapes with the result of `text`, which is called in the server's threads."""

    def __init__(self, address: tuple[str, int], text: Callable[[], str]) -> None:
        """Listen. Raises: KropotError if the address cannot be used."""
        try:
            self._server = _Server(address, text)
        except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: not a DNS label
            reason = getattr(error, "strerror", None) or str(error)
            raise KropotError(
                f"cannot serve metrics on {address[0]}, port {address[1]} ({reason}): choose another --metrics"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def url(self) -> str:
        """The URL of the metrics."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}/metrics" if ":" in str(host) else f"http://{host!s}:{port}/metrics"

    def __enter__(self) -> Self:
        """Start answering."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self._server.shutdown()
        self._server.server_close()


def write_metrics(path: Path, text: str) -> None:
    """Replace a file with the text. Nobody ever sees it half written, and everybody can read it. Raises: OSError."""
    name = f".{path.name[:200]}.new"
    # A killed process may have left one. There is only one writer.
    (path.parent / name).unlink(missing_ok=True)
    with temporary_file(path.parent, name, mode=0o644) as (file, temporary):
        temporary.chmod(0o644)
        file.write(text.encode())
        file.flush()
        temporary.replace(path)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], text: Callable[[], str]) -> None:
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        self.text = text
        self.places = threading.Semaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there is a free place."""
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and release the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing, because a scrape that broke off is the monitor's business."""


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE_S
    server_version = "kropotcli"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body = self.server.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", METRICS_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Write no access log."""
