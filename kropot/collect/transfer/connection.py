"""One of libcurl's handles, and the content that comes through it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pycurl

from kropot.collect.transfer.receive import HEADERS_THAT_MATTER, ContentReceiver
from kropot.durable.errors import StorageError
from kropot.securecopy.authorities import authorities
from kropot.securecopy.causes import curl_reason
from kropot.securecopy.content import UnbelievableError
from kropot.securecopy.timed import NOISE

if TYPE_CHECKING:
    from kropot.collect.decide.inputs import NotReceived
    from kropot.collect.transfer.engine import FetchJob, Server

_FEW_BYTES = 64 << 10

_REASONS = {
    pycurl.E_PARTIAL_FILE: "cut",
    pycurl.E_GOT_NOTHING: "cut",
    pycurl.E_SEND_ERROR: "cut",
    pycurl.E_RECV_ERROR: "cut",
    pycurl.E_UNSUPPORTED_PROTOCOL: "not_http",
    8: "not_http",
}


class CurlConnection:
    """A handle and the state of its content; it keeps its connection for the next content."""

    def __init__(self, server: Server, large: int) -> None:
        """Set the options that are the same for all jobs."""
        self._server = server
        self._large_from = large
        self._fields = [f"{name}: {value}" for name, value in server.headers.items()]
        self._lines: list[bytes] = []
        self._receiver: ContentReceiver | None = None
        self._error: UnbelievableError | StorageError | None = None
        self._broken: BaseException | None = None
        self._begun = False
        self._unwanted = 0
        self._heard = 0.0
        self._noise = 0
        self._ranged = False
        self.is_paused = False
        self.is_large = False
        self.curl = curl = pycurl.Curl()
        curl.setopt(pycurl.HTTPHEADER, self._fields)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        # A proxy from the environment would see the token.
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(1000 * min(server.connect_s, server.silence_s))))
        if not server.base_url.lower().startswith("http:"):
            trusted = authorities(server.ca_file)
            curl.setopt(pycurl.CAPATH if Path(trusted).is_dir() else pycurl.CAINFO, trusted)
        curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._write)

    def start(self, receiver: ContentReceiver) -> None:
        """Prepare the handle for a content."""
        self._receiver = receiver
        self.is_large = False
        self.curl.setopt(pycurl.URL, self._server.base_url + receiver.job.path)
        self._prepare({})

    def is_silent(self, now: float) -> bool:
        """Whether nothing has come for too long; libcurl itself only knows averages."""
        return not self.is_paused and now - self._heard > self._server.silence_s

    def excuse(self, seconds: float) -> None:
        """Do not count this time as silence: nothing was read, because the rate is limited."""
        self._heard += seconds

    def go_on(self) -> int | None:
        """Continue after the rate limit made this pause. Return libcurl's code if the transfer broke off at once."""
        self.is_paused = False
        self._heard = monotonic()
        try:
            self.curl.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:
            return int(error.args[0])
        return None

    def resume(self, code: int) -> bool:
        """Prepare the handle for the rest of a content that broke off; return False if that cannot be done."""
        if code == 0 or self._error is not None:
            return False
        extra = self._running.resume_headers()
        if extra is None:
            return False
        self._prepare(extra)
        return True

    def end(self, code: int) -> ContentReceiver | NotReceived:
        """Return the content, to be finished, if it came to its proper end, else its failure.

        The handle is free again.
        """
        receiver, self._receiver = self._running, None
        if self._broken is not None:
            raise self._broken
        if not self._begun and (code == 0 or (self._lines and not self._lines[-1].strip())):
            # A head without a body, or one that came whole before the transfer broke off: a refusal must not be missed.
            self._begin(receiver)
        if self._error is not None:
            return receiver.failed(self._error)
        return receiver if code == 0 else receiver.failed(self._reason(code))

    def abort(self) -> FetchJob:
        """Discard what came of the content, and return its job."""
        receiver, self._receiver = self._running, None
        receiver.abort()
        return receiver.job

    def suspend(self) -> None:
        """Break the transfer off; the bytes that came may wait for the rest."""
        receiver, self._receiver = self._running, None
        receiver.suspend()

    @property
    def _running(self) -> ContentReceiver:
        if self._receiver is None:
            raise RuntimeError("this handle fetches nothing")
        return self._receiver

    def _prepare(self, extra: dict[str, str]) -> None:
        self._lines.clear()
        self._error = None
        self.is_paused = False
        self._begun = False
        self._unwanted = 0
        if extra or self._ranged:
            fields = self._fields + [f"{name}: {value}" for name, value in extra.items()]
            self.curl.setopt(pycurl.HTTPHEADER, fields)
            self._ranged = bool(extra)
        self._heard, self._noise = monotonic(), 0

    def _write(self, chunk: bytes) -> int | None:
        """Take bytes from libcurl; anything but None breaks the transfer off."""
        try:
            limiter = self._server.limiter
            if limiter is not None:
                # The first bytes tell whether the body belongs here at all.
                if self._begun and limiter.owed_s > 0:
                    self.is_paused = True
                    return int(pycurl.WRITEFUNC_PAUSE)
                limiter.received(len(chunk))
            self._noise += len(chunk)
            if self._noise >= NOISE:
                self._heard, self._noise = monotonic(), 0
            return self._take(self._running, chunk)
        except BaseException as error:  # noqa: BLE001 -- libcurl would print it and continue, so `end` raises it
            self._broken = error
            return -1

    def _take(self, receiver: ContentReceiver, chunk: bytes) -> int | None:
        if not self._begun:
            self._begin(receiver)
            if self._error is None and receiver.received == 0 and (receiver.missing or 0) >= self._large_from:
                self.is_large = True
        if self.is_large:
            return -1
        if self._error is not None:
            # A short error page is read to its end, so that the connection can be kept.
            self._unwanted += len(chunk)
            return None if self._unwanted <= _FEW_BYTES else -1
        try:
            receiver.write(chunk)
        except (UnbelievableError, StorageError) as error:
            self._error = error
            return -1
        return None

    def _begin(self, receiver: ContentReceiver) -> None:
        self._begun = True
        try:
            receiver.begin(*_parse_head(self._lines))
        except (UnbelievableError, StorageError) as error:
            self._error = error

    def _reason(self, code: int) -> str:
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return "stalled" if self.curl.getinfo(pycurl.CONNECT_TIME) else "unreachable"
        unmade = curl_reason(code, self.curl.errstr())
        return unmade or _REASONS.get(code, f"transfer_{code}")


def _parse_head(lines: list[bytes]) -> tuple[int, int, list[tuple[str, str]]]:
    """Return (status, version, headers that matter) of the last head in `lines`: interim answers (1xx) come before it.

    Raises:
        UnbelievableError: "not_http".
    """
    first = b""
    fields: list[tuple[str, str]] = []
    for line in lines:
        field = _field(line)
        if field is not None:
            fields.append(field)
        elif line.startswith(b"HTTP/"):
            first, fields = line, []
    words = first.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():  # noqa: PLR2004 -- version and status
        raise UnbelievableError("not_http")
    return int(words[1]), 10 if words[0] == b"HTTP/1.0" else 11, fields


@lru_cache(maxsize=256)
def _field(line: bytes) -> tuple[str, str] | None:
    """Return a header's lower-case name and value, None for a line without a header that matters.

    Cached, because most lines are the same in every answer.
    """
    name, colon, value = line.decode("latin-1").partition(":")
    name = name.strip().lower()
    return (name, value.strip()) if colon and name in HEADERS_THAT_MATTER else None
