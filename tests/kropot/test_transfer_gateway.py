"""Both engines fetch through a network that cuts: from the real gateway they go on where it broke off."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from kropot.collect.decide.inputs import NotReceived, Received
from kropot.collect.transfer.curl import CurlEngine
from kropot.collect.transfer.engine import Server, TransferEngine
from kropot.collect.transfer.plain import PlainEngine
from kropot.objects.memory import MemoryObjects
from kropot.objects.store import Published
from kropot.securecopy.sealing import open_stream
from tests.gateway.serve import Served
from tests.kropot.jobs import fetch_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

CONTENT = os.urandom(3 << 20)
MAKERS: dict[str, Callable[..., TransferEngine]] = {
    "curl": partial(CurlEngine, handles=2),
    "curl and large": partial(CurlEngine, handles=2, large=1 << 20),
    "plain": PlainEngine,
}


class CuttingProxy:
    """Passes each request on over a connection of its own, and hangs up after so many bytes of each answer."""

    def __init__(self, url: str, allowance: int) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._allowance = allowance
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.heads: list[str] = []
        self.on_cut: Callable[[], object] = lambda: None

    def __enter__(self) -> CuttingProxy:  # noqa: PYI034 -- nobody derives from it
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            self.heads.append(head.decode("latin-1").lower())
            server.sendall(head)
            left = self._allowance
            while left > 0 and (data := server.recv(min(65536, left))):
                client.sendall(data)
                left -= len(data)
            self.on_cut()


@pytest.fixture(params=list(MAKERS))
def maker(request: pytest.FixtureRequest) -> Callable[..., TransferEngine]:
    return MAKERS[request.param]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as gateway:
        (gateway.folder / "big").write_bytes(CONTENT)
        gateway.server.rescan()
        yield gateway


def test_cut_transfer_from_the_gateway_is_continued(maker: Callable[..., TransferEngine], served: Served) -> None:
    client, store = served.client(), MemoryObjects()
    entry = client.page(limit=10).entries[0]
    with CuttingProxy(served.server.url, 1 << 20) as proxy:
        headers = {"token": client.token, "User-Agent": "test"}
        engine = maker(Server(base_url=proxy.url, headers=headers, silence_s=10), store)
        engine.submit([fetch_job(1, entry.id, size=entry.size, etag=entry.etag)])
        result = engine.poll(30)[0]
        engine.close()
    assert isinstance(result, Received), result
    ranged = [head for head in proxy.heads if "\r\nrange:" in head]
    assert len(ranged) >= 3
    assert all("\r\nif-range:" in head for head in ranged)
    outcome = store.publish([result.staged])[0]
    assert isinstance(outcome, Published)
    assert result.iv is not None
    assert client.kit is not None
    with store.open(outcome.sha256) as sealed:
        assert b"".join(open_stream([sealed.read()], client.kit.key(result.iv), result.iv)) == CONTENT


def test_file_that_changes_between_two_parts_is_never_mixed(
    maker: Callable[..., TransferEngine], served: Served
) -> None:
    client, store = served.client(), MemoryObjects()
    entry = client.page(limit=10).entries[0]
    changed = os.urandom(3 << 20)
    with CuttingProxy(served.server.url, 1 << 20) as proxy:
        proxy.on_cut = lambda: (served.folder / "big").write_bytes(changed)
        headers = {"token": client.token, "User-Agent": "test"}
        engine = maker(Server(base_url=proxy.url, headers=headers, silence_s=10), store)
        engine.submit([fetch_job(1, entry.id, size=entry.size, etag=entry.etag)])
        result = engine.poll(30)[0]
        engine.close()
    # The listing's claim is of the old version: what comes now is another one, or cut again.
    assert isinstance(result, NotReceived), result
    assert store.disk.used == 0
