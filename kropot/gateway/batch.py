"""Makes bulk answers: reads many small files, seals them and frames them, one file in memory at a time.

All of it runs in worker threads. No descriptor is open between two pieces, so a slow client holds up nothing.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from kropot.errors import KropotError
from kropot.gateway.catalogue import UnsettledError
from kropot.gateway.entries import element_of, mark_of
from kropot.gateway.facts import Audience
from kropot.gateway.serving import ChangedError, check, sealed_whole, whole
from kropot.gateway.sources import FolderAwayError, NotServedError, identity_parts
from kropot.gateway.vaults import RetiredMasterError
from kropot.securecopy.bulkwire import MAX_ANSWER, MAX_CONTENT, Refusal, content_head, end_frame, refusal_frame
from kropot.securecopy.sealing import sealed_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kropot.gateway.births import Birth, Births
    from kropot.gateway.catalogue import Catalogue
    from kropot.gateway.entries import Sealings
    from kropot.gateway.recent import RecentFiles
    from kropot.gateway.sources import FolderSource, NearbyFiles
    from kropot.gateway.state import FileRow, State
    from kropot.gateway.token import Token

PIECE: Final = 512 << 10
"""How many bytes of frames to gather before sending them. One content can follow."""


class NotSentError(KropotError):
    """An element is not sent. `reason` says why."""

    def __init__(self, reason: Refusal) -> None:
        """Keep the reason."""
        super().__init__(f"the element is not sent: {reason.value}")
        self.reason = reason


class BulkAnswers:
    """Makes bulk answers."""

    def __init__(
        self,
        *,
        state: State,
        tree: FolderSource,
        catalogue: Catalogue,
        sealings: Sealings,
        births: Births,
        recent: RecentFiles,
    ) -> None:
        """Serve the files of `tree` that `state` knows. Those in `recent` need not be looked up."""
        self._state = state
        self._tree = tree
        self._catalogue = catalogue
        self._sealings = sealings
        self._births = births
        self._recent = recent

    def pieces(self, token: Token, asked: Sequence[tuple[str, str]]) -> Iterator[bytes]:
        """Yield the answer to a bulk request in pieces of about 512 KiB. `asked` holds elements as (id, etag).

        Versions that nobody has listed yet are committed, in one transaction, before the first piece.

        Raises:
            KropotError: the database cannot be queried. This can happen only before the first piece.
        """
        found = self._found(token, {element for element, _ in asked})
        ready, size, left = list[bytes](), 0, MAX_ANSWER
        files = self._tree.nearby()
        for index, (element, etag) in enumerate(asked):
            try:
                if element not in found:
                    raise NotSentError(Refusal.GONE)
                row, birth = found[element]
                iv, content = self._sealed(
                    token, element, etag, row=row, birth=birth, files=files, room=min(left, MAX_CONTENT)
                )
            except (KropotError, OSError) as error:
                ready.append(refusal_frame(index, element, self._reason(error)))
            else:
                left -= len(content)
                digest = hashlib.sha256(content).digest()
                ready += content_head(index, element, etag, iv=iv, size=len(content), sha256=digest), content
                size += len(content)
            if size >= PIECE:
                files.close()
                yield b"".join(ready)
                ready, size = [], 0
        files.close()
        yield b"".join((*ready, end_frame(len(asked))))

    def _found(self, token: Token, elements: set[str]) -> dict[str, tuple[FileRow, Birth | None]]:
        """Return the rows behind the ids, and for a token of sc2 the births of their versions.

        A row without the birth that it needs can be sealed later.
        """
        found: dict[str, tuple[FileRow, Birth | None]] = {}
        marks: dict[bytes, str] = {}
        for element in elements:
            # A recent row can be older than the database's. The open file is compared with it in any case.
            row = self._recent.get(token.scope, element)
            birth = None if row is None or token.held is None else self._births.vouched(token, row)
            if row is not None and (birth is not None or token.held is None):
                found[element] = row, birth
            elif (mark := mark_of(element)) is not None:
                marks[mark] = element
        return found | self._looked_up(token, marks) if marks else found

    def _looked_up(self, token: Token, marks: Mapping[bytes, str]) -> dict[str, tuple[FileRow, Birth | None]]:
        """Return what `_found` returns, for ids given by their marks, from the database."""
        rows = [
            (mark, row)
            for mark, row in self._state.find_all(token.scope, list(marks))
            if element_of(token, row.path) == marks[mark]
        ]
        if token.held is None:
            return {marks[mark]: (row, None) for mark, row in rows}
        born: list[tuple[bytes, FileRow, Birth | None]]
        try:
            born = [*self._births.of_all(token, rows)]
        except (ChangedError, RetiredMasterError):
            # Some versions cannot be born now. That must not harm the others.
            born = [each for pair in rows for each in self._born(token, pair)]
        return {marks[mark]: (row, birth) for mark, row, birth in born}

    def _born(self, token: Token, pair: tuple[bytes, FileRow]) -> list[tuple[bytes, FileRow, Birth | None]]:
        try:
            return [*self._births.of_all(token, [pair])]
        except (ChangedError, RetiredMasterError):
            return [(*pair, None)]

    def _sealed(
        self,
        token: Token,
        element: str,
        etag: str,
        *,
        row: FileRow,
        birth: Birth | None,
        files: NearbyFiles,
        room: int,
    ) -> tuple[bytes | None, bytes]:
        """Return the IV, if there is one, and a content as it is sent, of up to `room` bytes.

        Raises: KropotError or OSError, for which `_reason` returns a `Refusal`.
        """
        if row.restless_s is not None:
            raise NotSentError(Refusal.CHANGED)
        if token.held is not None:
            if birth is None:
                raise NotSentError(Refusal.BUSY)
            sealing = birth.sealing(element=bytes.fromhex(element))
            self._compare(etag, sealing.header.etag, sealing.length, room)
            return None, sealing.whole(self._plain(files, row, birth))
        size, _ = identity_parts(row.identity)
        size = size if token.kit is None else sealed_size(size)
        self._compare(etag, self._sealings.etag(token, element, row.nonce), size, room)
        plain = self._plain(files, row, None)
        if token.kit is None:
            return None, plain
        iv = self._sealings.iv(token, element, row.nonce, row.origin or row.identity)
        return iv, sealed_whole(plain, iv=iv, key=self._sealings.key(token, iv))

    @staticmethod
    def _compare(asked: str, etag: str, size: int, room: int) -> None:
        if asked != etag:
            raise NotSentError(Refusal.CHANGED)
        if size > room:
            raise NotSentError(Refusal.LARGE)

    def _plain(self, files: NearbyFiles, row: FileRow, birth: Birth | None) -> bytes:
        """Return the plain content of the version that the row names, and of no other."""
        if birth is not None and row.audience == Audience.SEALED:
            # The content of a folder or a symlink has been known since its version was born.
            return birth.attributes
        if row.origin is None and (birth is None or birth.is_whole):
            plain = files.whole(row.path, row.identity, self._catalogue.is_past)
            if plain is not None:
                return plain
        descriptor, looks = files.open(row.path)
        try:
            self._catalogue.check_settled(looks)
            # From here on, the size is the one that was compared. New versions get their nonces elsewhere.
            if not self._catalogue.is_as_known(row, looks) or (birth is not None and birth.form.size != looks.size):
                raise NotSentError(Refusal.CHANGED)
            if birth is None or birth.is_whole:
                return whole(descriptor, looks)
            plain = birth.content(lambda at, size: os.pread(descriptor, size, at))(0, birth.form.plain_length)
            check(descriptor, looks)
        finally:
            os.close(descriptor)
        return plain

    def _reason(self, error: KropotError | OSError) -> Refusal:
        """Return the reason why one element is not sent."""
        match error:
            case NotSentError():
                return error.reason
            case NotServedError():
                # Nothing is known about a file whose whole folder is missing.
                return Refusal.BUSY if self._catalogue.is_away() else Refusal.GONE
            case FolderAwayError() | UnsettledError():
                return Refusal.BUSY
            case KropotError():
                return Refusal.CHANGED
            case _:
                return Refusal.UNREADABLE
