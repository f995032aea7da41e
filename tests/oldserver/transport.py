"""HTTP/1.1 on an asyncio transport, as exact as a test wants it: framing, pace, and breaks at any byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from tests.oldserver.faults import Delivery
from tests.oldserver.php import REASONS
from tests.oldserver.repository import CHUNK, Answer, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

_HIGH_WATER = 1 << 20
_MAX_HEAD = 1 << 20


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, answers as `respond` says."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._transport: Any = None
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server.connections.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def _next(self) -> None:
        """Answer the requests that are there, up to one that needs its time."""
        while self._task is None and not self._transport.is_closing():
            found = _parse(self._buffer)
            if found is None:
                if len(self._buffer) > _MAX_HEAD:
                    self._transport.abort()
                return
            request, version, self._buffer = found
            answer, delivery = self._server.respond(request)
            keep = version == "HTTP/1.1" and (request.header("connection") or "").lower() != "close"
            session = self._server.session_lock(request)
            if session is None and delivery.is_plain and isinstance(answer.body, bytes) and len(answer.body) <= CHUNK:
                self._send_at_once(request, answer, keep=keep, chunked=version == "HTTP/1.1")
            else:
                if version != "HTTP/1.1" and delivery.framing is None:
                    delivery = Delivery(framing="close") if delivery.is_plain else delivery
                self._task = asyncio.ensure_future(self._send(request, answer, delivery, session, keep=keep))

    def _send_at_once(self, request: Request, answer: Answer, *, keep: bool, chunked: bool) -> None:
        body = answer.body
        assert isinstance(body, bytes)
        framing = "close" if not chunked else ("chunked" if self._server.quirks.always_chunked else "length")
        head = self._head(request, answer, framing, len(body), keep=keep)
        if request.method == "HEAD":
            body = b""
        elif framing == "chunked":
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        self._transport.write(head + body)
        if not keep or framing == "close":
            self._transport.close()

    def _head(self, request: Request, answer: Answer, framing: str, length: int, *, keep: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Whatever')}",
            "Server: nginx",
            f"Content-Type: {answer.content_type}",
        ]
        if framing == "length":
            lines.append(f"Content-Length: {length}")
        elif framing == "chunked" and request.method != "HEAD":
            lines.append("Transfer-Encoding: chunked")
        lines.append("Connection: keep-alive" if keep and framing != "close" else "Connection: close")
        if answer.session and self._server.quirks.cookies and request.header("cookie") is None:
            lines.append(f"Set-Cookie: PHPSESSID={self._server.new_session()}; path=/; HttpOnly")
        lines += [f"{name}: {value}" for name, value in answer.headers]
        lines.append(
            "Cache-Control: max-age=0, must-revalidate, private"
            if answer.session
            else "Cache-Control: no-cache, private",
        )
        lines.append(f"Date: {_http_date(self._server.now())}")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"

    async def _send(
        self, request: Request, answer: Answer, delivery: Delivery, session: asyncio.Lock | None, *, keep: bool
    ) -> None:
        """Deliver an answer that is slow, long or broken; then look for the next request."""
        done = False
        try:
            if session is not None:
                async with session:
                    done = await self._deliver(request, answer, delivery, keep=keep)
            else:
                done = await self._deliver(request, answer, delivery, keep=keep)
        finally:
            self._task = None
            if not done:
                self._transport.abort()
        if keep and not self._transport.is_closing():
            self._next()
        else:
            self._transport.close()

    async def _deliver(self, request: Request, answer: Answer, delivery: Delivery, *, keep: bool) -> bool:
        """Write the answer; return whether the connection may live on (False: it was broken on purpose)."""
        if delivery.delay_s:
            await asyncio.sleep(delivery.delay_s)
        if delivery.raw is not None:
            self._transport.write(delivery.raw)
            return await self._broken(delivery)
        framing = delivery.framing or ("chunked" if self._server.quirks.always_chunked else "length")
        body = answer.body
        length = delivery.told_length
        if framing == "length" and length is None:
            body = body if isinstance(body, bytes) else b"".join(body)
            length = len(body)
        head = self._head(request, answer, framing, length or 0, keep=keep)
        if delivery.head_cut_at is not None:
            self._transport.write(head[: delivery.head_cut_at])
            return await self._broken(delivery)
        self._transport.write(head)
        if request.method != "HEAD":
            if not await self._body(body, framing, delivery):
                return await self._broken(delivery)
            if framing == "chunked":
                self._transport.write(b"0\r\n\r\n" if delivery.end is None else delivery.end)
            if delivery.end is not None:
                return await self._broken(delivery)
        if framing == "close" or delivery.told_length is not None:
            await self._flush()
            self._transport.close()
        return True

    async def _body(self, body: bytes | Iterator[bytes], framing: str, delivery: Delivery) -> bool:
        """Write the body; return False if it is to break off here."""
        sent = 0
        for piece in _pieces(body, delivery.piece or CHUNK):
            stops = sorted(
                at - sent
                for at in (delivery.cut_at, delivery.stall_at)
                if at is not None and sent <= at < sent + len(piece)
            )
            if framing == "chunked":
                self._transport.write(delivery.chunk_header or b"%x\r\n" % len(piece))
            start = 0
            for stop in stops:
                self._transport.write(piece[start:stop])
                start = stop
                if delivery.cut_at == sent + stop:
                    return False
                await self._flush()
                await asyncio.sleep(delivery.stall_s)
            self._transport.write(piece[start:] + (b"\r\n" if framing == "chunked" else b""))
            sent += len(piece)
            if delivery.pause_s:
                await asyncio.sleep(delivery.pause_s)
            elif not self._writable.is_set():
                await self._writable.wait()
            if self._transport.is_closing():
                return False
        return delivery.cut_at is None

    async def _flush(self) -> None:
        """Wait until the kernel has everything; the limits come back so that long bodies keep flowing."""
        self._transport.set_write_buffer_limits(high=0)
        await self._writable.wait()
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    async def _broken(self, delivery: Delivery) -> bool:
        """End the connection as the fault says."""
        await self._flush()
        if delivery.reset and (sock := self._transport.get_extra_info("socket")) is not None:
            # no lingering: the peer sees a reset instead of an end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        return True


def _parse(buffer: bytes) -> tuple[Request, str, bytes] | None:
    """Return the first whole request in the buffer, its HTTP version, and what follows; None while it is not whole."""
    head, gap, rest = buffer.partition(b"\r\n\r\n")
    if not gap:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, tail = first.partition(" ")
    target, _, version = tail.rpartition(" ")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    if len(rest) < length:
        return None
    path, _, query = target.partition("?")
    request = Request(number=0, visit=0, method=method, path=path, query=query, headers=headers, body=rest[:length])
    return request, version, rest[length:]


def _pieces(body: bytes | Iterator[bytes], size: int) -> Iterator[bytes]:
    for chunk in (body,) if isinstance(body, bytes) else body:
        if len(chunk) <= size:
            if chunk:
                yield chunk
            continue
        for start in range(0, len(chunk), size):
            yield chunk[start : start + size]


_dates: dict[int, str] = {}


def _http_date(moment: int) -> str:
    if moment not in _dates:
        _dates.clear()
        _dates[moment] = formatdate(moment, usegmt=True)
    return _dates[moment]
