"""A server's address: what can be one, what may be asked there, and whom it trusts to say that it is the one.

Everything that speaks HTTP to a server stands on this: the control plane and both transfer engines.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from kropot.errors import KropotError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_URI = re.compile(r"[!-\[\]-~]+")
"""Printable ASCII without the backslash, in which parsers of addresses see different things."""


class RedirectedAwayError(KropotError):
    """A redirect that does not surely stay on its origin; `where` is the origin it names, as far as that is clear."""

    def __init__(self, origin: tuple[str, str, int] | None = None) -> None:
        """Put the origin (scheme, host and port) into words."""
        self.where = "an unclear address" if origin is None else f"{origin[0]}://{origin[1]}:{origin[2]}"
        super().__init__(f"redirected to {self.where}")


def checked_base_url(url: str) -> str:
    """Return a server's address without its last slash.

    Raises:
        UsageError: it is not an http or https address, or it holds a user, a password, a query or a fragment, or a
            character that could make another program see another host in it.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or " " in url or "\\" in url or not url.isprintable():
        raise UsageError("the server's address must look like https://example.org or http://localhost:8000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "the server's address must hold no user, password, query or fragment; the token goes in --token"
        )
    return url.rstrip("/")


def sends_token_in_clear(base_url: str) -> bool:
    """Whether requests to this address show the token to the network: plain http to a host that is not this one.

    Only what surely is this machine is left out: names that merely begin like a loopback address are not.
    """
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return False
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an address, None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def redirected(url: str, location: str) -> str:
    """Return the address to which an answer from `url` redirects, on the same origin.

    What another program makes of the server's text does not matter: only path and query are taken from it, and they
    are put behind the origin of `url`.

    Raises:
        RedirectedAwayError: it leads to another origin, or two programs could read it differently.
    """
    try:
        target = urlsplit(urljoin(url, location))
    except ValueError:
        raise RedirectedAwayError from None
    if "@" in target.netloc or not _URI.fullmatch(location):
        raise RedirectedAwayError
    origin = origin_of(target.geturl())
    if origin is None or origin != origin_of(url):
        raise RedirectedAwayError(origin)
    here = urlsplit(url)
    return f"{here.scheme}://{here.netloc}/{target.path.lstrip('/')}{'?' if target.query else ''}{target.query}"


def authorities(ca_file: str | Path | None) -> str:
    """Return the PEM file of the authorities to trust: the one that is named, else the usual ones."""
    if ca_file is not None:
        return str(ca_file)
    from requests.utils import DEFAULT_CA_BUNDLE_PATH  # it takes a tenth of a second

    return DEFAULT_CA_BUNDLE_PATH
