"""A source, an element and a listing of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from ledger.events import Element, Listing, Source


def fresh_source(**said: Any) -> Source:
    """Return a source of an encrypted token that was never listed."""
    fields: dict[str, Any] = {
        "salt": bytes(32),
        "token_mac": bytes(32),
        "urls": ("https://files.example.org",),
        "opaque": True,
        "zone": "UTC",
        "cursor": None,
        "zone_shifts": (),
        "listed_us": None,
        "full_listed_us": None,
        "held": None,
        "surge": None,
        "churn": (),
        "unlistable": (),
    }
    return Source(**(fields | said))


def fresh_element(date: int = 1, **said: Any) -> Element:
    """Return an element that was seen once, and never fetched."""
    fields: dict[str, Any] = {
        "date": date,
        "tz": "UTC",
        "form": b'{"encrypted":"AAAA"}',
        "revision": 1,
        "present": True,
        "epoch": 0,
        "size": None,
        "etag": None,
        "copy": None,
        "damage": None,
        "failure": None,
    }
    return Element(**(fields | said))


def fresh_listing(**said: Any) -> Listing:
    """Return a full listing in which nothing was."""
    fields: dict[str, Any] = {
        "mode": "full",
        "since": None,
        "until": None,
        "seen": 0,
        "new": 0,
        "changed": 0,
        "reappeared": 0,
        "vanished": 0,
        "rejected": 0,
    }
    return Listing(**(fields | said))
