"""Decides about a source as a whole: which one a token belongs to, what listings do to it, and its alarms.

The token itself is never kept: a source keeps an HMAC of it, keyed with a salt of its own.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from kropot.collect.decide.plan import SECOND_US
from ledger.events import (
    SOURCE_KIND,
    AlarmsAccepted,
    HeldListing,
    ListingAdvanced,
    ListingCompleted,
    ListingHeldBack,
    Source,
    SourceBegan,
    SourceRenamed,
    StreamKey,
    Surge,
    ZoneChanged,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ledger.answers import SourceEntry
    from ledger.events import Listing
    from ledger.vaults import Naming

HOUR_US = 3600 * SECOND_US
DAY_HOURS = 24

MAX_UNLISTABLE = 1000
"""At most this many unlistable seconds are kept in a source: every event about the source carries them all."""


class Thresholds(Struct, frozen=True, kw_only=True):
    """How much may go missing or change and still be believed: shares of the known elements, and numbers of them.

    Vanishing is held back above both `missing_share` and `missing_count`. A surge is more than both `changed_share` and
    `changed_count` within 24 hours. That number is small, because a person with few files wants to hear of it too.
    """

    missing_share: float = 0.1
    missing_count: int = 20
    changed_share: float = 0.3
    changed_count: int = 5


class Match(Struct, frozen=True, kw_only=True):
    """Which source a token and an address belong to.

    "known" is `id`; "moved" is a known token at an unknown address (`id` is where it was seen last); "unlisted" is a
    known token that was never listed anywhere, so that its source `id` is bound to no address; "new" is none of these.
    """

    kind: Literal["known", "moved", "unlisted", "new"]
    id: bytes | None = None


class Found(Struct, frozen=True, kw_only=True):
    """What one chunk of a listing brought: counts of entries, and its newest second that can be believed.

    `afresh` counts the changed ones that had not already changed within the last 24 hours.
    """

    new: int = 0
    changed: int = 0
    afresh: int = 0
    reappeared: int = 0
    cursor: int | None = None
    opaque: bool | None = None


TOO_MANY = "too_many"
TOO_LARGE = "too_large"
"""Why a listing is held back before its end: it shows too many entries, or would add too much to the ledger."""


class Hold(Struct, frozen=True, kw_only=True):
    """A listing that is not believed, for `reason` (a stable word): `missing` of `known` elements were missing."""

    reason: str
    missing: int
    known: int


def source_key(source_id: bytes) -> StreamKey:
    """Return the key of the stream about a source (16 bytes) itself."""
    return StreamKey(source=source_id, kind=SOURCE_KIND, id="")


def token_mac(salt: bytes, token: str) -> bytes:
    """Return the HMAC-SHA-256 by which a source (its salt, 32 bytes) recognises its token without keeping it."""
    return hmac.new(salt, b"token\0" + token.encode(), hashlib.sha256).digest()


def match_source(
    known: Mapping[bytes, SourceEntry], token: str, url: str, namings: Mapping[bytes, Naming] | None = None
) -> Match:
    """Return which of the known sources this token and address belong to; `namings` has their further tokens."""
    sources = {id_: entry.source for id_, entry in known.items()}
    more = {} if namings is None else namings
    mine = {i: s for i, s in sources.items() if _is_token_of(s, more.get(i), token)}
    here = [i for i, s in mine.items() if url in s.urls]
    if here:
        # Two servers may know the same token: the one that is at this address now comes before one that was.
        return Match(kind="known", id=max(here, key=lambda i: (mine[i].url == url, mine[i].listed_us or 0, i)))
    listed = {i: s for i, s in mine.items() if was_listed(s)}
    if listed:
        return Match(kind="moved", id=max(listed, key=lambda i: (listed[i].listed_us or 0, i)))
    if mine:
        return Match(kind="unlisted", id=max(mine))
    return Match(kind="new")


def source_of_vault(
    known: Mapping[bytes, SourceEntry], vault: bytes, url: str, namings: Mapping[bytes, Naming]
) -> bytes | None:
    """Return the id of the source that has this vault, preferably one at this address; None if there is none."""
    mine = {id_: entry.source for id_, entry in known.items() if namings[id_].vault == vault}
    return max(mine, key=lambda id_: (url in mine[id_].urls, mine[id_].listed_us or 0, id_), default=None)


def moved(source: Source, url: str) -> SourceRenamed:
    """Return the fact that the server of `source` is now at `url`.

    The earlier addresses stay known, but not those of a source that was never listed: they may be typing errors.
    """
    known = source.urls if was_listed(source) else ()
    urls = (*(each for each in known if each != url), url)
    return SourceRenamed(source=replace(source, urls=urls))


def was_listed(source: Source) -> bool:
    """Whether any part of a listing was ever taken in. If none was, nobody knows whether the address was right."""
    return (source.listed_us, source.cursor, source.opaque, source.held) != (None, None, None, None)


def begin(*, salt: bytes, token: str, url: str) -> SourceBegan:
    """Return the fact that a token is used for the first time, with a salt of 32 random bytes."""
    return SourceBegan(
        source=Source(
            salt=salt,
            token_mac=token_mac(salt, token),
            urls=(url,),
            opaque=None,
            zone=None,
            cursor=None,
            zone_shifts=(),
            listed_us=None,
            full_listed_us=None,
            held=None,
            surge=None,
            churn=(),
            unlistable=(),
        )
    )


def advance(source: Source, found: Found, *, known: int, now_us: int, thresholds: Thresholds) -> ListingAdvanced | None:
    """Return the fact that a chunk was taken in, None if it brought nothing; `known` counts the elements before it.

    Elements that changed within the last 24 hours are counted here, each once, and a surge of them is noticed.
    """
    cursor = _later(source.cursor, found.cursor)
    opaque = source.opaque if found.opaque is None else found.opaque
    churn = _churn(source.churn, found.afresh, now_us)
    changed = sum(number for _, number in churn)
    surge = source.surge
    if found.afresh and changed > thresholds.changed_count and changed > thresholds.changed_share * known:
        since_us = now_us if surge is None else surge.since_us
        surge = Surge(changed=changed, known=known, since_us=since_us)
    nothing = not (found.new or found.changed or found.reappeared)
    if nothing and cursor == source.cursor and opaque == source.opaque:
        return None
    return ListingAdvanced(source=replace(source, cursor=cursor, opaque=opaque, churn=churn, surge=surge))


def complete(
    source: Source,
    listing: Listing,
    *,
    now_us: int,
    zone: str | None,
    cursor: int | None,
    unlistable: Iterable[int],
) -> ListingCompleted:
    """Return the fact that a listing came to its end; a full one lifts an earlier hold."""
    is_full = listing.mode == "full"
    kept = () if is_full else (s for s in source.unlistable if listing.since is not None and s <= listing.since)
    after = replace(
        source,
        zone=source.zone if zone is None else zone,
        cursor=_later(source.cursor, cursor),
        listed_us=now_us,
        full_listed_us=now_us if is_full else source.full_listed_us,
        held=None if is_full else source.held,
        churn=_churn(source.churn, 0, now_us),
        unlistable=tuple(sorted({*kept, *unlistable})[-MAX_UNLISTABLE:]),
    )
    return ListingCompleted(source=after, listing=listing)


def hold_back(
    source: Source, listing: Listing, hold: Hold, *, now_us: int, zone: str | None, unlistable: Iterable[int]
) -> ListingHeldBack:
    """Return the fact that missing elements were not declared vanished."""
    since_us = now_us if source.held is None else source.held.since_us
    after = replace(
        source,
        zone=source.zone if zone is None else zone,
        listed_us=now_us,
        full_listed_us=now_us,
        held=HeldListing(reason=hold.reason, missing=hold.missing, known=hold.known, since_us=since_us),
        unlistable=tuple(sorted(set(unlistable))[-MAX_UNLISTABLE:]),
    )
    return ListingHeldBack(source=after, listing=listing)


def cut_short(source: Source, listing: Listing, hold: Hold, *, now_us: int) -> ListingHeldBack:
    """Return the fact that a listing was held back before its end; no other follows until a person accepts it."""
    held = HeldListing(reason=hold.reason, missing=0, known=hold.known, since_us=now_us)
    return ListingHeldBack(source=replace(source, held=held), listing=listing)


def is_cut_short(source: Source) -> bool:
    """Whether a listing was held back before its end, and nobody has accepted it yet."""
    return source.held is not None and source.held.reason in {TOO_MANY, TOO_LARGE}


def is_believable(source: Source, missing: int, known: int, thresholds: Thresholds) -> bool:
    """Whether so few of the known elements are gone, or so many were accepted, that it need not be a mistake."""
    held = source.held
    if held is not None and held.is_accepted and missing <= held.missing + thresholds.missing_count:
        return True
    return missing <= thresholds.missing_count or missing <= thresholds.missing_share * known


def accept(source: Source) -> AlarmsAccepted | None:
    """Return the fact that a person accepted what is held back and a surge of changes; None if there is no alarm."""
    held = source.held
    if source.surge is None and (held is None or held.is_accepted):
        return None
    after = replace(
        source,
        held=None if held is None else replace(held, reason="accepted"),
        surge=None,
        # What was accepted is not counted a second time.
        churn=() if source.surge is not None else source.churn,
    )
    return AlarmsAccepted(source=after)


def change_zone(source: Source, offsets: tuple[int, ...], zone: str | None) -> ZoneChanged:
    """Return the fact that the server's zone changed, which moved the dates by `offsets` seconds."""
    after = replace(source, zone=source.zone if zone is None else zone, zone_shifts=(*source.zone_shifts, offsets))
    return ZoneChanged(source=after, offsets=offsets)


def _is_token_of(source: Source, naming: Naming | None, token: str) -> bool:
    mac = token_mac(source.salt, token)
    further = () if naming is None else naming.token_macs
    return any(hmac.compare_digest(known, mac) for known in (source.token_mac, *further))


def _later(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def _churn(churn: tuple[tuple[int, int], ...], changed: int, now_us: int) -> tuple[tuple[int, int], ...]:
    """Return the changes of the last 24 hours by the hour, with `changed` more in this one."""
    hour = now_us // HOUR_US
    counts = {at: number for at, number in churn if hour - DAY_HOURS < at <= hour}
    if changed:
        counts[hour] = counts.get(hour, 0) + changed
    return tuple(sorted(counts.items()))
