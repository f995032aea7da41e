"""What prevents requests to a server: a stable word for each reason, and the sentence for the user. Pure.

`causes.py` finds the word for an exception or for libcurl's code; both transfer engines and the lister use the same.
"""

from __future__ import annotations

from typing import Final

_PATH = "check host, port and path of --server-url"

SENTENCES: Final = {
    "no_such_host": "no host of this name was found: check the name in --server-url and the network's DNS",
    "not_listening": "nothing listens at this address: is the server running, and are host and port right?",
    "unreachable": "no connection could be made: check the network and the firewalls on the way",
    "timeout": "it did not answer in time: it is overloaded, or something on the way drops the packets",
    "stalled": "it stopped answering in the middle: it is overloaded, or the connection is bad",
    "cut": "it broke off in the middle of an answer: look at its log, and at proxies on the way",
    "not_http": f"what listens there does not speak HTTP: {_PATH}, and whether it must begin with https://",
    "not_a_list": f"what answers there is not a File Repository (its page is not a list): {_PATH}",
    "redirected": "it redirects to another address, which did not get the token: if it has moved, set --server-url",
    "tls_expired": "its certificate has expired, or is not valid yet: renew it on the server, or correct this "
    "machine's clock",
    "tls_wrong_host": "its certificate is for another host: use the host of the certificate in --server-url",
    "tls_unknown_issuer": "its certificate cannot be trusted, because this machine does not know who issued it: if a "
    "private authority did, name it with --ca-file",
    "tls_missing": "it does not speak TLS at this port: check the port, and whether it must begin with http://",
    "tls": "no encrypted connection could be made: this machine refuses its certificate or its version of TLS",
    "refused": "it refuses the token (401 or 403): check that the token is right, not expired, allowed from here, and "
    "has the role securecopy.stream",
    "no_room": "the ledger's disk has less free space than --min-free, so nothing new is recorded: free some space",
    "http_400": f"it does not understand the request (HTTP 400): {_PATH}, and whether it must begin with https://",
    "http_404": f"there is no File Repository at this address (HTTP 404): {_PATH}",
    "http_429": "it limits requests (HTTP 429)",
    "http_503": "it is not ready (HTTP 503): wait, or look at its log",
    "other_vault": "its list names a different vault than this source has, or none, so the list was ignored: check "
    "--server-url and the token; if you want the other vault, begin a new source with --new-source",
    "not_sc2": "it did not send the sealed object of sc2 that its list promises: look for a proxy that removes the "
    "header Accept or changes Content-Type, and for a server that is older than its list",
    "other_object": "it sent another object than the one that it listed, which was not stored: if this happens again "
    "after the next listing, the server, or something on the way, swaps contents",
    "other_version": "it sent another version than the one that it listed, which was not stored: a file that has "
    "changed comes with the next listing",
}
"""What is wrong and what to do now, by the reason. The subject is the server."""

AT_THE_NETWORK: Final = frozenset({"no_such_host", "not_listening", "unreachable", "timeout"})
"""Reasons why no server was reached."""

AT_A_CONTENT: Final = frozenset({"not_sc2", "other_object", "other_version"})
"""Reasons for refusing a content that the user can do something about."""


def sentence(reason: str) -> str:
    """Return what is wrong and what to do now, and the stable word."""
    known = SENTENCES.get(reason)
    if known is not None:
        return f"{known} ({reason})"
    status = reason.removeprefix("http_")
    if status != reason:
        at_fault = "look at the server's log" if status.startswith("5") else _PATH
        return f"it answers HTTP {status}: {at_fault}"
    return f"its answer cannot be used ({reason}): look at the server's log"
