"""Both servers of the program, as an attacker meets them: a gateway and a keeper, each with a big answer to give."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

from tests.gateway.serve import PLAIN, Served
from tests.keeper.serve import Kept

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

Kind = Literal["gateway", "keeper"]
BIG: Final = 24 << 20

both_servers = pytest.mark.parametrize("kind", ["gateway", "keeper"])


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A server: its address, the answer to a stranger, and the requests for a small and for a big answer.

    `admitted` is the header of somebody who may come in.
    """

    url: str
    stranger: int
    admitted: str
    small_path: str
    big_path: str

    def small(self, more: str = "") -> bytes:
        return self._request(self.small_path, more)

    def big(self, more: str = "") -> bytes:
        return self._request(self.big_path, more)

    def _request(self, path: str, more: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: x\r\n{self.admitted}\r\n{more}\r\n".encode()


@contextmanager
def attacked(kind: Kind, tmp_path: Path, **options: Any) -> Iterator[Attacked]:
    """Serve for an attack. `options` are `bounds` and `trusted_proxies`."""
    if kind == "gateway":
        with Served(tmp_path, **options) as gateway:
            (gateway.folder / "big").touch()
            os.truncate(gateway.folder / "big", BIG)
            gateway.server.rescan()
            client = gateway.client(PLAIN)
            element = client.ids()[b"big"]
            client.session.close()
            yield Attacked(
                url=gateway.server.url,
                stranger=404,
                admitted=f"token: {client.token}",
                small_path="/secure-copy/file/list",
                big_path=f"/secure-copy/file/{element}/content",
            )
        return
    with Kept(tmp_path, **options) as kept:
        kept.world.put(kept.world.source(None), "big", bytes(BIG))
        yield Attacked(
            url=kept.url,
            stranger=401,
            admitted=f"Authorization: Bearer {kept.visitor().token}",
            small_path="/api/1/tree",
            big_path=f"/api/1/objects/{hashlib.sha256(bytes(BIG)).hexdigest()}",
        )


def everything(conversation: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = []
    with suppress(ConnectionResetError):
        while data := conversation.recv(1 << 16):
            received.append(data)
    return b"".join(received)
