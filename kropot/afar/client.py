"""Asks a keeper, who is not trusted: answers are bounded in size and time, and the token goes to no other origin.

A request carries a path, a token and the names of elements as hashes. This module is never given a key.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlencode

import requests
import urllib3
from msgspec import Struct

from kropot.errors import KropotError, ServerRefusedError, UsageError
from kropot.objects.store import ObjectMissingError
from kropot.securecopy.address import RedirectedAwayError, checked_base_url, is_user_agent, redirected
from kropot.securecopy.authorities import authorities
from kropot.securecopy.causes import reason_of
from kropot.securecopy.client import ServerTroubleError
from kropot.securecopy.deadline import DeadlineAdapter, was_hung_up
from kropot.securecopy.timed import CONNECT_TIMEOUT_S
from kropot.securecopy.trouble import sentence

if TYPE_CHECKING:
    from types import TracebackType

    from kropot.securecopy.client import ServerAccess

MOST_JSON: Final = 64 << 20
MOST_REDIRECTS: Final = 3
LONGEST_S: Final = 24 * 3600

_READ_BYTES: Final = 1 << 16
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK, _PART, _NOT_FOUND = 200, 206, 404
_SHOWN: Final = 300


class NotAtKeeperError(KropotError):
    """The keeper says that there is no such thing, or that the token is not for it."""

    http_status = 404


class KeeperRefusalError(KropotError):
    """The keeper does not answer this request, and says why."""

    http_status = 400


class RemoteRange(Struct, frozen=True):
    """The bytes of an object from `offset` on, which are still to be read, and the whole object's size in bytes."""

    answer: requests.Response
    offset: int
    size: int


class KeeperClient:
    """Asks one keeper with one token. Any thread may use it."""

    def __init__(self, access: ServerAccess, *, connections: int = 16) -> None:
        """Check the settings. Nothing is sent yet. Raises: UsageError."""
        self.base_url = checked_base_url(access.url)
        agent = access.user_agent or f"kropotcli/{version('kropotcli')}"
        if not is_user_agent(agent):
            raise UsageError("the user agent must be printable ASCII")
        self._headers = {
            "Authorization": f"Bearer {access.token.reveal()}",
            "User-Agent": agent,
            "Accept-Encoding": "identity",
        }
        silence_s = access.list_silence_s
        self._timeouts = (min(CONNECT_TIMEOUT_S, silence_s), silence_s)
        self._authorities = authorities(access.ca_file)
        # The bare transport, as in kropot/securecopy/client.py: no cookies, no proxies or netrc of the environment.
        self._transport = DeadlineAdapter(total_s=LONGEST_S, silence_s=silence_s)
        self._transport.init_poolmanager(connections, connections)

    def __repr__(self) -> str:
        """Name the keeper, never the token."""
        return f"KeeperClient({self.base_url!r})"

    def __enter__(self) -> Self:
        """Return itself; its connections are closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connections."""
        self._transport.close()

    def get(self, *path: str, **query: object) -> dict[str, Any]:
        """Return the JSON object that the API answers. Parameters that are None are left out.

        Raises:
            ServerRefusedError: the keeper does not accept the token, or not for this request.
            NotAtKeeperError: there is no such thing.
            KeeperRefusalError: the request is not answered, for a reason that the keeper gives.
            ServerTroubleError: anything but a readable answer came.
        """
        body = self.read(*path, **query)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise self._trouble("not_json", "its answer is not JSON: is this the address of a keeper?") from None
        if not isinstance(value, dict):
            raise self._trouble("not_json", "its answer is not a JSON object: is this the address of a keeper?")
        return value

    def read(self, *path: str, **query: object) -> bytes:
        """Return the body that the API answers, at most 64 MiB. Raises: as `get`."""
        with self._ask(path, query) as answer:
            return self._body(answer)

    def open_object(self, sha256: bytes, offset: int = 0) -> RemoteRange:
        """Ask for the bytes of an object from `offset` on. The caller closes the answer.

        Raises: ObjectMissingError if the keeper does not have it; else as `get`.
        """
        try:
            answer = self._ask(("objects", sha256.hex()), {}, {"Range": f"bytes={offset}-"} if offset else {})
        except NotAtKeeperError:
            raise ObjectMissingError(sha256) from None
        try:
            return self._range(answer, offset)
        except BaseException:
            answer.close()
            raise

    def read_some(self, answer: requests.Response, most: int) -> bytes:
        """Return the next bytes of an answer, b"" at its end. Raises: ServerTroubleError if it was cut off."""
        try:
            data: bytes = answer.raw.read1(most, decode_content=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._translated(error) from None
        if not data and was_hung_up(answer):
            raise self._trouble("cut", sentence("cut"))
        return data

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _ask(
        self, path: tuple[str, ...], query: dict[str, object], more: dict[str, str] | None = None
    ) -> requests.Response:
        """Return a good answer, whose body is not read yet. Follow a few redirects within the origin."""
        url = f"{self.base_url}/api/1/" + "/".join(quote(part, safe="") for part in path)
        sent = {name: _text(value) for name, value in query.items() if value is not None}
        if sent:
            url += "?" + urlencode(sent, quote_via=quote)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                answer = self._send(url, more or {})
                if answer.status_code not in _REDIRECTS:
                    return self._good(answer)
                with answer:
                    url = self._redirected(url, answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._translated(error) from None
        raise self._trouble("redirected", "it redirects in circles")

    def _send(self, url: str, more: dict[str, str]) -> requests.Response:
        request = requests.Request("GET", url, headers=self._headers | more).prepare()
        return self._transport.send(request, stream=True, timeout=self._timeouts, verify=self._authorities)

    def _good(self, answer: requests.Response) -> requests.Response:
        status = answer.status_code
        if status in {_OK, _PART}:
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                answer.close()
                raise self._trouble("encoded", "it sends a compressed answer, which was not asked for")
            return answer
        with answer:
            said = self._said(answer)
        if status in {401, 403}:
            raise ServerRefusedError(f"the keeper {self.base_url} refuses the token (HTTP {status}): {said}")
        if status == _NOT_FOUND:
            raise NotAtKeeperError(f"the keeper {self.base_url} says: {said}")
        if status in {400, 409, 416}:
            raise KeeperRefusalError(f"the keeper {self.base_url} does not answer this (HTTP {status}): {said}")
        raise self._trouble(f"http_{status}", sentence(f"http_{status}"), status)

    def _said(self, answer: requests.Response) -> str:
        """Return the sentence in a failure, short and on one line, because anybody can have written it."""
        try:
            value = json.loads(self._body(answer, 1 << 16))
            text = str(value["status"])
        except (ServerTroubleError, ValueError, TypeError, KeyError, RecursionError):
            text = "it gives no reason"
        return "".join(each if each.isprintable() else "?" for each in text[:_SHOWN])

    def _body(self, answer: requests.Response, most: int = MOST_JSON) -> bytes:
        if not answer.headers.get("Content-Length") and not answer.raw.chunked:
            raise self._trouble("close_delimited", sentence("close_delimited"))
        body = bytearray()
        while data := self.read_some(answer, _READ_BYTES):
            body += data
            if len(body) > most:
                raise self._trouble("too_big", f"its answer is larger than {most} bytes")
        return bytes(body)

    def _range(self, answer: requests.Response, offset: int) -> RemoteRange:
        """Return the range of an object's answer, if it is the part that was requested."""
        length = answer.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 18:  # noqa: PLR2004 - no object is so large
            raise self._trouble("close_delimited", sentence("close_delimited"))
        if answer.status_code == _OK:
            return RemoteRange(answer, 0, int(length))
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset or int(found[2]) + 1 - offset != int(length):
            raise self._trouble("wrong_range", "it sends a different part of an object than was asked for")
        return RemoteRange(answer, offset, int(found[3]))

    def _redirected(self, url: str, answer: requests.Response) -> str:
        try:
            return redirected(url, answer.headers.get("Location", ""))
        except RedirectedAwayError as error:
            raise self._trouble(
                "redirected",
                f"it redirects to {error.where}, which was not followed, because the token is not meant for it; if the "
                "keeper has moved there, give that address as --from",
            ) from None

    def _translated(self, error: Exception) -> ServerTroubleError:
        """Return a foreign exception as one of ours; its own text can contain addresses and is left out."""
        reason = reason_of(error)
        if reason is None:
            is_late = isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)
            is_cut = isinstance(error, requests.ConnectionError | urllib3.exceptions.ProtocolError | OSError)
            reason = "timeout" if is_late else "cut" if is_cut else "not_http"
        return self._trouble(reason, sentence(reason))

    def _trouble(self, reason: str, text: str, status: int | None = None) -> ServerTroubleError:
        said = text.replace("--server-url", "--from").replace("File Repository", "keeper")
        return ServerTroubleError(reason, status, detail=f"the keeper {self.base_url}: {said}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
