"""The values that the gateway's database holds, and its errors."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct

from kropot.errors import KropotError

PER_SECOND: Final = 256
"""How many versions can share a date. A page can exceed its limit by this many, to include its whole last second."""


class StateError(KropotError):
    """The gateway's database cannot be used. The message says why."""


class TokenExistsError(KropotError):
    """A token with this id exists already."""

    http_status = 400


class FileRow(NamedTuple):
    """One file of the catalogue.

    `identity` is `sources.Seen.identity`. `nonce` (16 bytes) belongs to exactly this content. `date` is the second,
    since 1970, under which this version is listed. It is None until the first scan is complete. `is_due` means that the
    next scan must give a newer date. `origin` is the identity that the nonce was made for, None if it is `identity`.
    `seal` vouches for the row (`sameness.Sameness`). `restless_s` is when the file was offered as is because it never
    rests; None otherwise. `birth` is what the token's vault first sealed this version from (`births.Births`); it is
    there if the row was found by an id. `audience` is a `facts.Audience`, and `facts` is what else the catalogue knows,
    for tokens of sc2, or None if nobody has looked yet.
    """

    id: int
    path: bytes
    identity: bytes
    mode: int
    nonce: bytes
    sha256: bytes | None
    date: int | None
    is_due: bool
    origin: bytes | None = None
    seal: bytes | None = None
    restless_s: int | None = None
    audience: int = 0
    facts: bytes | None = None
    birth: bytes | None = None


class Telling(NamedTuple):
    """What is kept for one id of a token: the file's row id, the version's birth, and its listed form.

    The birth (`births.Births`) and the listed form (`keptforms.KeptForms`) can be missing.
    """

    file: int
    birth: bytes | None = None
    listed: bytes | None = None


class VersionPage(NamedTuple):
    """Files in the order of their dates, and what is kept for a token's ids of them, by mark.

    `remaining` counts the versions from the requested second on, and `closed` is the last closed second.
    """

    files: list[FileRow]
    remaining: int
    closed: int
    tellings: dict[bytes, Telling]


class NewFile(Struct, frozen=True, kw_only=True):
    """A version to record: of a new file (`id` is None), or of a known file (its `id`, current date and audience).

    The other fields are those of `FileRow`. A version with `is_silent` keeps its date: nothing that is listed changed.
    """

    id: int | None
    key: bytes
    path: bytes
    identity: bytes
    mode: int
    nonce: bytes
    sha256: bytes | None
    old_date: int | None = None
    origin: bytes | None = None
    seal: bytes | None = None
    restless_s: int | None = None
    is_silent: bool = False
    audience: int = 0
    old_audience: int = 0
    facts: bytes | None = None


class TokenRow(Struct, frozen=True, kw_only=True):
    """A token as stored: its number, keyed hash and sealed record, and when it was created and revoked.

    Times are in seconds since 1970.
    """

    number: int
    lookup: bytes
    sealed: bytes
    created_s: int
    revoked_s: int | None


class VaultRow(Struct, frozen=True, kw_only=True):
    """A vault as stored: its number, its id (16 bytes) and its sealed keys. `number` is 0 before it is stored."""

    number: int
    uid: bytes
    sealed: bytes
    created_s: int


class ServedSourceRow(Struct, frozen=True, kw_only=True):
    """The served folder: a random id (16 bytes), its path, its last date, and whether lists are ready.

    `last_date` is in seconds since 1970. It is None until a version has a date.
    """

    uid: bytes
    root: bytes | None
    last_date: int | None
    is_ready: bool


def next_second(now_s: int, last: int | None) -> int:
    """Return the date of the next versions: now, but always later than every earlier date.

    If the clock is set back or many files change at once, dates run ahead of the clock. Two batches never share a
    second.
    """
    return now_s if last is None else max(now_s, last + 1)
