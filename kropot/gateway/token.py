"""One token as the gateway uses it: what it may do, from where, and what it seals with. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kropot.gateway.tokenspec import CIPHER, DIGEST, KEY, PADDING, PADME, ROUNDS, SALT
from kropot.sc2.layout import METHOD as SC2
from kropot.secret import repr_without
from kropot.securecopy.sealing import Kit

if TYPE_CHECKING:
    from kropot.gateway.vaults import HeldVault


class Token(Struct, frozen=True, kw_only=True):
    """A token as the gateway uses it. `stored_salt` goes into the ids.

    A CBC token seals with `kit`, and a token of sc2 with the vault `held`, and with `padding` if that is set. A plain
    token has neither. Times are in seconds since 1970.
    """

    number: int
    id: str
    roles: frozenset[str]
    expires_s: int
    revoked_s: int | None
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    user_agents: frozenset[str]
    kit: Kit | None
    stored_salt: str
    iv_key: bytes
    shown: dict[str, Any]
    held: HeldVault | None = None
    padding: bool = False

    __repr__ = repr_without("id", "stored_salt", "iv_key", "shown")

    @property
    def is_plain(self) -> bool:
        """Whether the token seals nothing."""
        return self.kit is None and self.held is None

    @property
    def method(self) -> str | None:
        """How the token seals: "sc2" or "aes-256-cbc". None for a plain token."""
        return SC2 if self.held is not None else None if self.kit is None else self.kit.method

    @property
    def scope(self) -> int:
        """The number under which this token's ids are stored: its own if encrypted, else 0 (shared by plain tokens).

        The tokens of one vault share a negative number: one for all that pad, and one for all that do not.
        """
        if self.held is not None:
            return -2 * self.held.number - self.padding
        return 0 if self.kit is None else self.number

    def refusal(self, *, now_s: int, ip: str | None, user_agent: str) -> str | None:
        """Return why the token is not accepted from this client at `now_s`, or None if it is accepted."""
        if self.revoked_s is not None:
            return "the token was revoked"
        if now_s >= self.expires_s:
            return "the token has expired"
        if self.networks and not _is_within(ip, self.networks):
            return "the token may not be used from this address"
        if self.user_agents and user_agent not in self.user_agents:
            return "the token may not be used by this client"
        return None

    def may(self, role: str) -> bool:
        """Whether the token has this role. No role includes another: an administrator only makes tokens."""
        return role in self.roles


def as_token(record: dict[str, Any], *, number: int, revoked_s: int | None, held: HeldVault | None) -> Token:
    """Return the token in a record of the database."""
    data = record["data"]
    kit = None
    if data[KEY]:
        kit = Kit(data[KEY], method=data[CIPHER], digest=data[DIGEST], rounds=data[ROUNDS])
    return Token(
        number=number,
        id=record["id"],
        roles=frozenset(record["roles"]),
        expires_s=record["expires_s"],
        revoked_s=revoked_s,
        networks=tuple(ipaddress.ip_network(text, strict=False) for text in data["allowedIpAddresses"]),
        user_agents=frozenset(data["allowedUserAgents"]),
        kit=kit,
        stored_salt=record["stored"][SALT],
        iv_key=bytes.fromhex(record["iv_key"]),
        shown=data | record["stored"],
        held=held,
        padding=data.get(PADDING) == PADME,
    )


def _is_within(ip: str | None, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    """Whether an address is in one of the networks. An IPv4-mapped IPv6 address counts as IPv4."""
    try:
        address = ipaddress.ip_address((ip or "").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)
