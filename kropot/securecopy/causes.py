"""Turn exceptions of Python, or a code of libcurl, into a stable word for why a connection failed or broke off.

The words and their sentences are in `trouble.py`.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPIRED: Final = frozenset({9, 10})
_OTHER_HOST: Final = frozenset({62, 64})
_UNKNOWN_ISSUER: Final = frozenset({2, 7, 18, 19, 20, 21})
"""OpenSSL's verification errors (X509_V_ERR_...)."""

_NO_TLS: Final = (
    "wrong version number",
    "packet length too long",
    "record layer failure",
    "http request",
    "unexpected eof",
    "unexpected message",
)
"""OpenSSL's words for an answer that is not TLS."""

_SAID: Final = {
    "tls_expired": ("expired", "not yet valid"),
    "tls_wrong_host": ("subject name", "hostname mismatch", "address mismatch"),
    "tls_unknown_issuer": ("issuer", "self-signed", "self signed", "signature failure"),
    "tls_missing": _NO_TLS,
}
"""What OpenSSL and libcurl write when they give no reliable number."""

_CURL_TLS: Final = frozenset({35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98})


def tls_reason(result: int | None, words: str) -> str:
    """Return the word for a failure of TLS; `result` is that of a verification, None if unknown."""
    if result in _EXPIRED:
        return "tls_expired"
    if result in _OTHER_HOST:
        return "tls_wrong_host"
    if result in _UNKNOWN_ISSUER:
        return "tls_unknown_issuer"
    spelt = words.lower().replace("_", " ")
    return next((reason for reason, said in _SAID.items() if any(each in spelt for each in said)), "tls")


def reason_of(error: BaseException) -> str | None:
    """Return the word for the failure at the root of an exception, None if it has nothing to do with the network."""
    found: str | None = None
    for each in _causes(error):
        match each:
            case ssl.SSLCertVerificationError():
                return tls_reason(each.verify_code, "")
            case ssl.SSLError():
                return tls_reason(None, f"{getattr(each, 'reason', None)} {each.strerror}")
            case socket.gaierror() | UnicodeError():
                # A name that does not fit into DNS labels raises UnicodeError.
                return "no_such_host"
            case http.client.BadStatusLine() if not isinstance(each, http.client.RemoteDisconnected):
                return "not_http"
            case ConnectionRefusedError():
                found = "not_listening"
            case OSError() if each.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}:
                found = "unreachable"
            case _:
                pass
    return found


def curl_reason(code: int, words: str) -> str | None:
    """Return the word for a code and message of libcurl, None if a connection was made."""
    if code in _CURL_TLS:
        return tls_reason(None, words)
    if code == 6:  # noqa: PLR2004 -- CURLE_COULDNT_RESOLVE_HOST
        return "no_such_host"
    if code == 7:  # noqa: PLR2004 -- CURLE_COULDNT_CONNECT
        return "unreachable" if "unreachable" in words.lower() or "no route" in words.lower() else "not_listening"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and everything that caused it, the outermost first."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        found = queue.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        queue += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
