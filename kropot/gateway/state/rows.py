"""What the gateway's database holds, as values, and what can go wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kropot.errors import KropotError

PER_SECOND: Final = 256
"""At most so many versions share a date: what a page can always be extended by."""


class StateError(KropotError):
    """The gateway's database cannot be used; the sentence says why."""


class TokenExistsError(KropotError):
    """There is a token of this id already."""

    http_status = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One file of the catalogue.

    `identity` is `sources.Seen.identity`; `nonce` (16 bytes) belongs to exactly this identity. `date` is the second in
    which this version is listed, None until the first scan is through; `is_due` asks for a newer one.
    """

    id: int
    path: bytes
    identity: bytes
    mode: int
    nonce: bytes
    sha256: bytes | None
    date: int | None
    is_due: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A version to be written down: of a new file (`id` None), or of a known one (`id`, and its present date)."""

    id: int | None
    key: bytes
    path: bytes
    identity: bytes
    mode: int
    nonce: bytes
    sha256: bytes | None
    old_date: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token as it is kept: its number, its keyed hash, its sealed record, and when it was made and revoked."""

    number: int
    lookup: bytes
    sealed: bytes
    created_s: int
    revoked_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSourceRow:
    """The folder that is served: a random id (16 bytes), where it is, its last dated second, whether lists are ready.

    `last_date` is None until something was dated.
    """

    uid: bytes
    root: bytes | None
    last_date: int | None
    is_ready: bool


def next_second(now_s: int, last: int | None) -> int:
    """Return the date of the next versions: now, but always after every date that was ever given.

    A clock set back, or a burst of changes, moves dates ahead of the clock; it never lets two batches share a second.
    """
    return now_s if last is None else max(now_s, last + 1)
