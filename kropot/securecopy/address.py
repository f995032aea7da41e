"""A server's address: what can be one, how it is written, and what may be asked there.

Everything that speaks HTTP to a server uses this: the control plane and both transfer engines.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urljoin, urlsplit

from kropot.errors import KropotError, UsageError

_URI = re.compile(r"[!-\[\]-~]+")
"""Printable ASCII without the backslash, which URL parsers treat differently."""


class RedirectedAwayError(KropotError):
    """A redirect that leaves its origin, or might; `where` is the origin it names, as far as that is clear."""

    def __init__(self, origin: tuple[str, str, int] | None = None) -> None:
        """Put the origin (scheme, host and port) into words."""
        self.where = "an unclear address" if origin is None else f"{origin[0]}://{origin[1]}:{origin[2]}"
        super().__init__(f"redirected to {self.where}")


def checked_base_url(url: str) -> str:
    """Return a server's address without its last slash. A host that is not ASCII is written as in DNS (xn--...).

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
    return _in_ascii(url).rstrip("/")


def _in_ascii(url: str) -> str:
    """Return an address that every program reads alike: host and path in ASCII. Raises: UsageError."""
    if url.isascii():
        return url
    import idna  # it is needed here only, and loads large tables

    parts = urlsplit(url)
    try:
        host = idna.encode(parts.hostname or "", uts46=True).decode()
    except idna.IDNAError as error:
        raise UsageError(
            f"the host of the server's address, {parts.hostname}, is not a valid DNS name ({error}): check it"
        ) from None
    place = host if parts.port is None else f"{host}:{parts.port}"
    return f"{parts.scheme}://{place}{quote(parts.path, safe='/%')}"


def sends_token_in_clear(base_url: str) -> bool:
    """Return whether requests to this address show the token to the network: plain http to another host.

    Only addresses that are certainly this machine are exempt. Names that merely begin like a loopback address are not.
    """
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return False
    return parts.scheme == "http" and not is_this_machine(parts.hostname or "")


def is_this_machine(host: str) -> bool:
    """Whether only this machine can have this address or name. `localhost.example.org` can be any machine. Pure."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_user_agent(text: str) -> bool:
    """Return whether a header can carry this text, and a server that wants a User-Agent sees one."""
    return text.isascii() and text.isprintable() and bool(text.strip())


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

    How another program reads the server's text does not matter, because only path and query are taken from it and
    appended to the origin of `url`.

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
