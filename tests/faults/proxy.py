"""A TCP proxy on loopback that counts requests, and cuts, slows down or refuses connections as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Proxy:
    """Forwards to `port`. Everything but `port` may be changed at any time.

    `cut_after` cuts a connection once so many bytes went to the server, and `cuts` is how many are still cut so (None:
    all). `rate` bounds bytes a second to the server. `is_away` closes every connection at once; `is_silent` keeps them,
    and hands nothing on.
    """

    port: int
    cut_after: int | None = None
    cuts: int | None = None
    rate: int | None = None
    is_away: bool = False
    is_silent: bool = False
    requests: list[str] = field(default_factory=list)
    address: str = ""

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def count(self, method: str) -> int:
        return sum(line.startswith(f"{method} ") for line in self.requests)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self.is_away:
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)
                back = asyncio.create_task(self._back(there_reader, writer))
                await self._forward(reader, there_writer)
                there_writer.close()
                back.cancel()
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        while data := await reader.read(64 << 10):
            for line in data.split(b"\r\n", 1)[:1]:
                if line.endswith(b"HTTP/1.1"):
                    self.requests.append(line.decode())
            sent += len(data)
            while self.is_silent:  # noqa: ASYNC110 -- another thread says when
                await asyncio.sleep(0.05)
            if self.is_away:
                return
            if self.cut_after is not None and sent > self.cut_after and self.cuts != 0:
                self.cuts = None if self.cuts is None else self.cuts - 1
                return
            if self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(64 << 10):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own."""
    proxy = Proxy(port)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    host, own = server.sockets[0].getsockname()[:2]
    proxy.address = f"{host}:{own}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
