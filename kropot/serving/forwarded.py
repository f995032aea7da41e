"""Who the client is when trusted proxies are in front. All functions are pure."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address

    Address = IPv4Address | IPv6Address
    Networks = Sequence[IPv4Network | IPv6Network]

FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"

_ONE_CUSTOMER: Final = 64


def parse_networks(texts: Iterable[str]) -> Networks:
    """Parse addresses and networks into networks. Raises: ValueError if one of them is neither."""
    return tuple(ip_network(text) for text in texts)


def parse_address(text: str) -> Address | None:
    """Return the address in the text of a hop or a socket, or None if there is none.

    A port after it and an IPv6 zone are dropped. An IPv4-mapped IPv6 address becomes the IPv4 address.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def is_trusted(address: Address | None, trusted: Networks) -> bool:
    """Whether an address belongs to a trusted proxy."""
    return address is not None and any(address in network for network in trusted)


def client_behind(peer: Address | None, hops: Sequence[bytes], trusted: Networks) -> Address | None:
    """Return the client of a request that came from a trusted proxy, or None if the proxy names nobody.

    `hops` holds the values of X-Forwarded-For in order; if there are none, the proxy itself is the client. Every proxy
    appends the address that it saw. So the last untrusted hop counts, even if it is not an address, because the client
    could have written everything before it. If all hops are trusted, the first one counts.
    """
    address = peer
    for text in reversed(b",".join(hops).decode("latin-1").split(",") if hops else []):
        address = parse_address(text)
        if not is_trusted(address, trusted):
            break
    return address


def crowd_of(address: Address | None) -> str:
    """Return the name under which a client is counted: an IPv4 address, or the network that one customer gets."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _ONE_CUSTOMER), strict=False))
    return str(address)
