"""A server's address: what can be one, which origin it has, and whether it shows the token to the network."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from kropot.errors import UsageError


def checked_base_url(url: str) -> str:
    """Return a server's address without its last slash.

    Raises:
        UsageError: it is not an http or https address, or it holds a user, a password, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or any(map(str.isspace, url)):
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
