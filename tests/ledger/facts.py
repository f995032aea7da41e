"""Facts of every type for tests: one fixed sample of each, and a Hypothesis strategy over all that may be written."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from ledger.events import (
    FACTS,
    AlarmsAccepted,
    AuditAdvanced,
    AuditRange,
    Copy,
    CopyDamaged,
    CopyLost,
    CopyStored,
    DismissalWithdrawn,
    DismissedFetchFailed,
    DrillHeld,
    Element,
    ElementDismissed,
    Fact,
    Failure,
    FetchFailed,
    HeldListing,
    InstanceBegan,
    Keeping,
    LedgerBegan,
    Listing,
    ListingAdvanced,
    ListingCompleted,
    ListingHeldBack,
    PayloadErased,
    RemoteChanged,
    RemoteCopied,
    RemoteObserved,
    RemoteReappeared,
    RemoteVanished,
    RunFailed,
    Source,
    SourceBegan,
    SourceLabelled,
    SourceRenamed,
    SourceResumed,
    SourceRetired,
    Surge,
    Unserved,
    VaultNamed,
    ZoneChanged,
)
from ledger.lthash import ErasedRow
from ledger.retention import (
    CopyReleased,
    Freed,
    FreeingBegan,
    FreeingEnded,
    KeepRules,
    LastCopyReleased,
    Pin,
    PointKept,
    PointLetGo,
    PolicySet,
    ReleaseWithdrawn,
    Retention,
)

COPY = Copy(sha256=bytes(range(32)), size=4112, iv=bytes(range(16)), revision=1, instance="main")
ELEMENT = Element(
    date=1_795_414_108,
    tz="Europe/Warsaw",
    form=b'{"encrypted":"AAAA"}',
    revision=1,
    present=True,
    epoch=0,
    size=None,
    etag=None,
    copy=None,
    damage=None,
    failure=None,
)
STORED = Element(
    date=-5,
    tz="",
    form=b"{}",
    revision=2,
    present=False,
    epoch=3,
    size=2**40,
    etag='"\u017c\u00f3\u0142w"',
    copy=COPY,
    damage="damaged",
    failure=Failure(reason="http_500", attempts=3, since_us=1, next_try_us=2**62),
)
SOURCE = Source(
    salt=bytes(range(32, 64)),
    token_mac=bytes(range(64, 96)),
    urls=("http://localhost:8000", "https://backup.example.org/base"),
    opaque=True,
    zone="UTC",
    cursor=1_795_414_108,
    zone_shifts=((3600, -3600), (900,)),
    listed_us=1_795_414_109_000_000,
    full_listed_us=None,
    held=HeldListing(reason="many_missing", missing=40, known=100, since_us=7),
    surge=Surge(changed=50, known=100, since_us=8),
    churn=((498726, 3), (498727, 0)),
    unlistable=(1_795_414_100,),
)
LISTING = Listing(
    mode="window",
    since=None,
    until=1_795_414_108,
    seen=256,
    new=3,
    changed=2,
    reappeared=1,
    vanished=0,
    rejected=1,
    unserved=Unserved(sockets=1, pipes=2, devices=3, links=4, unreadable=5, unsettled=6, excluded=7),
    unscanned_since=1_795_414_000,
    closed=1_795_414_107,
)
RELEASED: dict[str, Any] = {
    "policy": 7,
    "decided": 300,
    "at_us": 1_795_414_109_000_000,
    "reason": "replaced",
    "by": "root@vault",
}
RETENTION = Retention(
    rules=(
        KeepRules(
            source=None, last=0, within_s=0, daily=30, weekly=0, monthly=0, yearly=0, vanished_s=None, min_age_s=2592000
        ),
        KeepRules(
            source=bytes(range(16)),
            last=3,
            within_s=86400,
            daily=0,
            weekly=8,
            monthly=12,
            yearly=5,
            vanished_s=31536000,
            min_age_s=0,
        ),
    ),
    pins=(Pin(position=120411, label="before the move"),),
    signature="a note",
)
SAMPLES: dict[str, Fact] = {
    "LedgerBegan": LedgerBegan(ledger_id=bytes(range(16)), salt=bytes(range(32)), program="0.1.0"),
    "InstanceBegan": InstanceBegan(program="0.1.0", host="vault"),
    "AuditAdvanced": AuditAdvanced(ranges=(AuditRange(start=bytes(32), end=b"\xff" * 32, position=9, at_us=10),)),
    "AuditAdvanced/empty": AuditAdvanced(ranges=()),
    "SourceBegan": SourceBegan(source=SOURCE),
    "SourceRenamed": SourceRenamed(source=SOURCE),
    "ListingAdvanced": ListingAdvanced(source=SOURCE),
    "ListingCompleted": ListingCompleted(source=SOURCE, listing=LISTING),
    "ListingHeldBack": ListingHeldBack(source=SOURCE, listing=LISTING),
    "AlarmsAccepted": AlarmsAccepted(source=SOURCE),
    "RunFailed": RunFailed(source=SOURCE, instance="main", reason="refused"),
    "ZoneChanged": ZoneChanged(source=SOURCE, offsets=(-3600,)),
    "RemoteObserved": RemoteObserved(element=ELEMENT),
    "RemoteChanged": RemoteChanged(element=ELEMENT),
    "RemoteVanished": RemoteVanished(element=STORED),
    "RemoteReappeared": RemoteReappeared(element=STORED),
    "CopyStored": CopyStored(element=STORED),
    "FetchFailed": FetchFailed(element=STORED),
    "CopyDamaged": CopyDamaged(element=STORED, sha256=bytes(32)),
    "CopyLost": CopyLost(element=STORED, sha256=bytes(32)),
    "CopyReleased": CopyReleased(element=STORED, sha256=bytes(32), **RELEASED),
    "PayloadErased": PayloadErased(
        reason="request 17", blocked=True, rows=(ErasedRow(position=2, lanes=bytes(range(256)) * 8),)
    ),
    "SourceLabelled": SourceLabelled(keeping=Keeping(label="web 1")),
    "SourceRetired": SourceRetired(keeping=Keeping(label="\u017c\u00f3\u0142w", retired_us=1_795_414_109_000_000)),
    "SourceResumed": SourceResumed(keeping=Keeping(in_use_us=1_795_414_109_000_000)),
    "DrillHeld": DrillHeld(opened=25, failed=1),
    "ElementDismissed": ElementDismissed(element=STORED),
    "DismissedFetchFailed": DismissedFetchFailed(element=STORED),
    "DismissalWithdrawn": DismissalWithdrawn(element=STORED),
    "VaultNamed": VaultNamed(vault=bytes(range(16)), token_macs=()),
    "VaultNamed/tokens": VaultNamed(vault=bytes(range(16)), token_macs=(bytes(32), bytes(range(32)))),
    "RemoteCopied": RemoteCopied(element=replace(STORED, present=True, damage=None)),
    "LastCopyReleased": LastCopyReleased(
        element=replace(STORED, copy=None, damage=None, failure=None), sha256=bytes(32), **RELEASED
    ),
    "ReleaseWithdrawn": ReleaseWithdrawn(element=STORED, sha256=bytes(32)),
    "PolicySet": PolicySet(retention=RETENTION),
    "PointKept": PointKept(retention=replace(RETENTION, signature=None)),
    "PointLetGo": PointLetGo(retention=Retention(rules=(), pins=(), signature=None)),
    "FreeingBegan": FreeingBegan(freed=Freed(to=0, objects=0, bytes=0)),
    "FreeingEnded": FreeingEnded(freed=Freed(to=120411, objects=17, bytes=1 << 40)),
}

_LENGTHS = {
    "sha256": 32,
    "source": 16,
    "iv": 16,
    "salt": 32,
    "token_mac": 32,
    "token_macs": 32,
    "ledger_id": 16,
    "start": 32,
    "end": 32,
    "vault": 16,
}
_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def facts() -> st.SearchStrategy[Fact]:
    """All facts that may be written."""
    return st.one_of([_builds(cls) for cls in FACTS.values()])


def _builds(cls: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: _values(name, hints[name]) for name in cls.__struct_fields__})


def _values(name: str, hint: Any) -> st.SearchStrategy[Any]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([_values(name, option) for option in get_args(hint)])
    if origin is Literal:
        return st.sampled_from(get_args(hint))
    if origin is tuple:
        parts = get_args(hint)
        if parts[-1] is Ellipsis:
            return st.lists(_values(name, parts[0]), min_size=name == "urls", max_size=3).map(tuple)
        return st.tuples(*[_values(name, part) for part in parts])
    return _builds(hint) if isinstance(hint, type) and issubclass(hint, Struct) else _plain(name, hint)


def _plain(name: str, hint: Any) -> st.SearchStrategy[Any]:
    signed = name in {"date", "cursor", "since", "until", "unlistable", "zone_shifts", "offsets"}
    if name == "lanes":  # 2,048 bytes, of which drawing four is enough
        return st.binary(min_size=4, max_size=4).map(lambda some: some * 512)
    length = _LENGTHS.get(name)
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(-(2**63) if signed else 1, 2**62 if name.endswith("_us") else 2**63 - 1),
        str: _TEXT,
        bytes: st.binary(max_size=40) if length is None else st.binary(min_size=length, max_size=length),
    }[hint]
