"""The control plane of the protocol over HTTP: list pages and single elements, bounded in size and time.

The server is not trusted: answers are read up to a limit and a deadline, never decompressed, cookies are never sent
back, and a redirect to another origin is refused, so the token reaches only the server it is meant for. The token
travels in a header only; no error, log line or repr of this module holds it.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote, urlencode

import requests
import urllib3
from msgspec import Struct

from kropot.errors import KropotError, ServerRefusedError, UsageError
from kropot.securecopy.address import RedirectedAwayError, checked_base_url, is_user_agent, redirected
from kropot.securecopy.authorities import authorities
from kropot.securecopy.causes import reason_of
from kropot.securecopy.content import ACCEPT
from kropot.securecopy.deadline import DeadlineAdapter, was_hung_up
from kropot.securecopy.timed import CONNECT_TIMEOUT_S, CONTENT_SILENCE_S, LIST_SILENCE_S
from kropot.securecopy.trouble import sentence
from kropot.securecopy.wire import BadPageError, parse_page, parse_submitdata

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from kropot.secret import Secret
    from kropot.securecopy.wire import Listed, Page

MAX_PAGE_BYTES = 64 << 20
MAX_ELEMENT_BYTES = 1 << 20
MAX_REDIRECTS = 3
MAX_RETRY_AFTER_S = 24 * 3600

LONGEST_ANSWER_S: Final = 600
"""How long one page may take in all, in seconds."""

_READ_BYTES = 1 << 16
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_DIGITS = re.compile(r"[0-9]{1,9}")
_REFUSALS = frozenset({401, 403})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ServerTroubleError(KropotError):
    """The server could not be asked, or its answer could not be used; the same request might succeed later.

    `reason` is a stable word (of `trouble.SENTENCES`, "too_big", "encoded", "close_delimited", "http_500", or a reason
    of `BadPageError`), `status` the HTTP status if one came, `retry_after_s` what the server asks for.
    """

    http_status = 502

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        *,
        detail: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        """Say what happened; `detail` MUST hold no secret and no element's name."""
        super().__init__(detail or f"the server: {sentence(reason)}")
        self.reason = reason
        self.status = status
        self.retry_after_s = retry_after_s


class ServerAccess(Struct, frozen=True, kw_only=True):
    """How to reach a server: its address, the token, and the authorities to trust (a PEM file; None: the usual ones).

    `http_timeout` and `silence_timeout` bound how long it may be silent, in seconds, and the smaller one counts; None
    stands for the usual value for a list or a content. Nothing bounds how long a content may take. `user_agent` goes
    with every request (None: the program's own).
    """

    url: str
    token: Secret
    ca_file: Path | None = None
    http_timeout: int = 7200
    user_agent: str | None = None
    silence_timeout: int | None = None

    @property
    def list_silence_s(self) -> float:
        """How long the server may be silent within a page."""
        return min(self.http_timeout, self.silence_timeout or LIST_SILENCE_S)

    @property
    def content_silence_s(self) -> float:
        """How long the server may be silent within a content."""
        return min(self.http_timeout, self.silence_timeout or CONTENT_SILENCE_S)

    def client(self, longest_s: int = LONGEST_ANSWER_S) -> SecureCopyClient:
        """Return a client whose answers may take `longest_s` seconds each. Raises: UsageError."""
        return SecureCopyClient(
            self.url,
            self.token.reveal(),
            silence_s=self.list_silence_s,
            longest_s=longest_s,
            user_agent=self.user_agent or f"kropotcli/{version('kropotcli')}",
            ca_file=self.ca_file,
        )


class SecureCopyClient:
    """Asks one server with one token. For one thread; it ignores proxies and netrc of the environment."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        silence_s: float,
        longest_s: float = LONGEST_ANSWER_S,
        user_agent: str,
        ca_file: str | Path | None = None,
        max_page_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        """Check the arguments; nothing is sent yet.

        `silence_s` bounds the silence within an answer and `longest_s` a whole answer, both in seconds; `ca_file` is a
        PEM file of the authorities to trust instead of the usual ones.

        Raises:
            UsageError: the address, token, user agent or file cannot be used.
        """
        self.base_url = checked_base_url(base_url)
        if not _PRINTABLE.fullmatch(token):
            raise UsageError("the token is empty or holds characters that no HTTP header can carry: check it")
        if not is_user_agent(user_agent):
            raise UsageError("the user agent must be printable ASCII: the server answers nothing without one")
        self._headers = {"token": token, "User-Agent": user_agent, "Accept": ACCEPT, "Accept-Encoding": "identity"}
        self._max_page_bytes = max_page_bytes
        self._timeouts = (min(CONNECT_TIMEOUT_S, silence_s, longest_s), min(silence_s, longest_s))
        self._authorities = authorities(ca_file)
        # The bare transport: a session would read the environment's proxies and netrc, keep cookies, and read the body
        # of a redirect to its end, however long. It would also cost a third of the rate.
        self._transport = DeadlineAdapter(total_s=longest_s, silence_s=silence_s)

    def __repr__(self) -> str:
        """Name the server, never the token."""
        return f"SecureCopyClient({self.base_url!r})"

    def __enter__(self) -> Self:
        """Return itself; its connections are closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def list(self, since: str | None, limit: int, *, kind: str = "file") -> Page:
        """Return the page of up to `limit` entries later than `since` (server's wall clock; None: all).

        Raises:
            ServerRefusedError: the server does not accept the token (401, 403).
            ServerTroubleError: something other than a readable page came.
        """
        query = {"limit": str(limit)} if since is None else {"since": since, "limit": str(limit)}
        path = f"/secure-copy/{quote(kind, safe='')}/list?{urlencode(query, quote_via=quote)}"
        status, content_type, body = self._get(path, self._max_page_bytes)
        try:
            return parse_page(status, content_type, body)
        except BadPageError as error:
            raise ServerTroubleError(error.reason, status) from None

    def submitdata(self, id_: str) -> Listed | None:
        """Return the element as it would be listed, or None if the server says that it is gone.

        Raises:
            ServerRefusedError: the server does not accept the token (401, 403).
            ServerTroubleError: it is unclear whether the element is there.
        """
        path = f"/secure-copy/file/{quote(id_, safe='')}/submitdata"
        status, content_type, body = self._get(path, MAX_ELEMENT_BYTES)
        try:
            return parse_submitdata(status, content_type, body)
        except BadPageError as error:
            raise ServerTroubleError(error.reason, status) from None

    def headers(self) -> dict[str, str]:
        """Return the headers of every request, the token among them: never log them."""
        return dict(self._headers)

    def _get(self, path: str, limit: int) -> tuple[int, str | None, bytearray]:
        """Return status, content type and body of an answer, following a few redirects within the same origin."""
        url = self.base_url + path
        for _ in range(MAX_REDIRECTS + 1):
            try:
                with self._send(url) as answer:
                    if answer.status_code not in _REDIRECTS:
                        return answer.status_code, answer.headers.get("Content-Type"), _believable_body(answer, limit)
                    url = self._redirected(url, answer)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise self._translated(error) from None
        raise ServerTroubleError("redirected", detail=f"{self.base_url} redirects in circles")

    def _send(self, url: str) -> requests.Response:
        """Return an answer of which only the head was read."""
        request = requests.Request("GET", url, headers=self._headers).prepare()
        return self._transport.send(request, stream=True, timeout=self._timeouts, verify=self._authorities)

    def _redirected(self, url: str, answer: requests.Response) -> str:
        """Return where an answer points to, if that is the same origin."""
        try:
            return redirected(url, answer.headers.get("Location", ""))
        except RedirectedAwayError as error:
            raise ServerTroubleError(
                "redirected",
                answer.status_code,
                detail=f"{self.base_url} redirects to {error.where}, which was not followed, because the token is not "
                "meant for it; if the server has moved there, give that address as --server-url",
            ) from None

    def _translated(self, error: Exception) -> ServerTroubleError:
        """Return a foreign exception as one of ours; its own text can hold addresses and is left out."""
        reason = reason_of(error)
        if reason is None:
            reason = _reason_of_library(error)
        return ServerTroubleError(reason, detail=f"{self.base_url}: {sentence(reason)}")


def _reason_of_library(error: Exception) -> str:
    """Return the word for an error of requests or urllib3 that no error of the system caused."""
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return "timeout"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | urllib3.exceptions.ProtocolError):
        return "cut"
    return "cut" if isinstance(error, requests.ConnectionError | OSError) else "not_http"


def _believable_body(answer: requests.Response, limit: int) -> bytearray:
    """Return the body of an answer that is worth reading, `limit` bytes at most."""
    status = answer.status_code
    if status in _REFUSALS:
        raise ServerRefusedError(
            f"the server refused the token (HTTP {status}); check that it is right, not expired, "
            "allowed from here, and has the role securecopy.stream",
        )
    if status >= 500 or status == 429:  # noqa: PLR2004 - the classes of HTTP
        raise ServerTroubleError(f"http_{status}", status, retry_after_s=_retry_after(answer))
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        # No compression was asked for. A compressed answer could be a bomb, so it is not opened.
        raise ServerTroubleError("encoded", status)
    told = answer.headers.get("Content-Length", "")
    if not told and not answer.raw.chunked:
        # Only the connection's end marks its end, so a page cut between two lines would look like the last one.
        raise ServerTroubleError("close_delimited", status)
    if _DIGITS.fullmatch(told) and int(told) > limit:
        raise ServerTroubleError("too_big", status)
    body = bytearray()
    while chunk := answer.raw.read1(_READ_BYTES, decode_content=False):
        body += chunk
        if len(body) > limit:
            raise ServerTroubleError("too_big", status)
    if was_hung_up(answer):
        raise ServerTroubleError("cut", status)
    return body


def _retry_after(answer: requests.Response) -> int | None:
    """Return the seconds that the server asks to wait, if it gives seconds; a day at most."""
    told = answer.headers.get("Retry-After", "")
    return min(int(told), MAX_RETRY_AFTER_S) if _DIGITS.fullmatch(told) else None
