"""Notes for the catalogue what only tokens of `sc2` get: the facts of files, and versions of folders and symlinks.

A symlink's content is its target, and a folder has none. Everything else is metadata. So a folder keeps its version
when files in it come and go, and nobody fetches it again. Attributes that are too large for a form count as content.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kropot.errors import KropotError
from kropot.gateway.describing import Describer
from kropot.gateway.facts import UNKNOWN, Audience, content_of, large_of, pack
from kropot.gateway.ivs import NONCE_BYTES
from kropot.gateway.serving import ChangedError
from kropot.gateway.sources import FolderAwayError, ScannedEntry, entry_key, identity_parts, path_key
from kropot.gateway.state import NewFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.gateway.keys import MasterKey
    from kropot.gateway.sameness import Sameness
    from kropot.gateway.sources import FolderSource, OpensFiles, ScannedFile, Seen
    from kropot.gateway.state import FileRow
    from kropot.sc2.form import Form


class Noting:
    """Notes what the entries of one folder are."""

    def __init__(self, tree: FolderSource, same: Sameness, master: MasterKey, entropy: Callable[[int], bytes]) -> None:
        """Look at entries of `tree`. `same` tells which rows this gateway wrote."""
        self._tree = tree
        self._same = same
        self._entropy = entropy
        self._key = master.vouch(b"link groups")
        self._describer: Describer | None = None

    def begin_scan(self) -> None:
        """Forget the names of owners, because they can change."""
        self._describer = None

    def facts(self, found: ScannedFile, files: OpensFiles) -> bytes | None:
        """Return the facts of a file, opened by `files`, or None if it is changing. The next scan looks again."""
        if found.is_followed:
            return None
        try:
            descriptor, _ = files.open(found.path)
            try:
                form, looks = self._describing().form(descriptor, found.path, sealed_us=0)
            finally:
                os.close(descriptor)
        except (ChangedError, FolderAwayError):
            return None
        except (KropotError, OSError):
            return UNKNOWN
        return pack(form) if looks == found.seen else None

    @staticmethod
    def is_noted(row: FileRow, found: ScannedFile) -> bool:
        """Whether nothing is left to note about a file that looks as in its row."""
        if found.is_followed:
            return row.audience == Audience.FOLLOWED
        return row.audience == Audience.ALL and row.facts is not None

    @staticmethod
    def is_same_content(row: FileRow, facts: bytes | None) -> bool:
        """Whether the attributes that count as content are the known ones."""
        return facts is None or row.facts is None or large_of(facts) == large_of(row.facts)

    @staticmethod
    def is_as_listed(row: FileRow, facts: bytes | None) -> bool:
        """Whether these are the facts that lists give. If none were known, no list gave others."""
        return facts is None or row.facts is None or facts == row.facts

    def version(self, found: ScannedEntry, row: FileRow | None, *, is_settled: bool) -> NewFile | None:
        """Return what to record about a folder or a symlink, or None if it cannot be read or has not changed.

        An unsettled one is recorded so that the next scan looks at it again.
        """
        if row is not None and row.identity == found.seen.identity and row.date is not None and not row.is_due:
            return None
        try:
            form, looks = self._described(found.path)
        except (KropotError, OSError):
            return None
        facts = pack(form)
        identity = (looks if is_settled else replace(looks, ctime_ns=0)).identity
        sha256 = content_of(facts)
        nonce, origin, is_silent = self._entropy(NONCE_BYTES), identity, False
        if row is not None and row.sha256 == sha256 and self._same.is_vouched(row):
            nonce, origin = row.nonce, row.origin or row.identity
            known = (row.mode, row.facts, identity_parts(row.identity)[1])
            is_silent = known == (looks.mode, facts, looks.mtime_ns) and row.date is not None and not row.is_due
        return NewFile(
            id=None if row is None else row.id,
            key=entry_key(found.path),
            path=found.path,
            identity=identity,
            mode=looks.mode,
            nonce=nonce,
            sha256=sha256,
            old_date=None if row is None else row.date,
            origin=None if origin == identity else origin,
            seal=self._same.seal(found.path, nonce, origin, identity, sha256),
            is_silent=is_silent,
            audience=Audience.SEALED,
            old_audience=Audience.SEALED,
            facts=facts,
        )

    def _described(self, path: bytes) -> tuple[Form, Seen]:
        """Return an entry's complete form, and its metadata. Raises: as `FolderSource.open_entry`, `Describer.form`."""
        describer = self._describing()
        descriptor = self._tree.open_entry(path)
        try:
            return describer.form(descriptor, path, sealed_us=0)
        finally:
            os.close(descriptor)

    def _describing(self) -> Describer:
        if self._describer is None:
            self._describer = Describer(self._tree.device_number(), self._key)
        return self._describer


def key_of(found: ScannedFile | ScannedEntry) -> bytes:
    """Return the key (32 bytes) of what a walk found."""
    return entry_key(found.path) if isinstance(found, ScannedEntry) else path_key(found.path)


def noted(version: NewFile, found: ScannedFile, row: FileRow | None, facts: bytes | None) -> NewFile:
    """Return a file's version with its facts, its audience and its earlier audience."""
    now = Audience.FOLLOWED if found.is_followed else Audience.ALL
    return replace(version, facts=facts, audience=now, old_audience=now if row is None else row.audience)
