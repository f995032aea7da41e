"""Makes the entries of lists. A sealed entry is kept, and sent again until its file changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kropot.gateway.entries import element_of, mark_of
from kropot.gateway.state import FileRow, Telling
from kropot.securecopy.wire import encode_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kropot.gateway.births import Birth, Births
    from kropot.gateway.entries import Sealings
    from kropot.gateway.keptforms import KeptForms
    from kropot.gateway.state import State
    from kropot.gateway.token import Token
    from kropot.securecopy.wire import Listed


class Told(NamedTuple):
    """An entry of a list as it is sent: its date (seconds since 1970), its id and its line; and the file's row."""

    date: int
    element: str
    line: bytes
    row: FileRow


class Tellings:
    """Makes the entries of one gateway's lists."""

    def __init__(self, state: State, sealings: Sealings, births: Births, kept: KeptForms) -> None:
        """Keep sealed forms and births in `state`."""
        self._state = state
        self._sealings = sealings
        self._births = births
        self._kept = kept

    def of(self, token: Token, rows: Sequence[FileRow], kept: Mapping[bytes, Telling] | None = None) -> list[Told]:
        """Return the entries of files, in no particular order. A file that sc2 cannot seal is left out.

        `kept` is what the database keeps for the token's ids of these files, by mark, if the caller has read it.

        The database stores the ids and births of versions before this returns, so a client can ask for each of them.

        Raises: as `Births.of_all`.
        """
        # If a file has just become a folder, both have this id. The newer row counts.
        by_mark: dict[bytes, tuple[str, FileRow]] = {}
        for row in rows:
            element = element_of(token, row.path)
            if (mark := mark_of(element)) is not None:
                by_mark[mark] = element, row
        tellings = self._state.tellings(token.scope, list(by_mark)) if kept is None else kept
        done: list[Told] = []
        new: dict[bytes, tuple[str, FileRow]] = {}
        known: dict[bytes, FileRow] = {}
        for mark, (element, row) in by_mark.items():
            told = tellings.get(mark)
            if told is None:
                new[mark] = element, row
            elif told.file != row.id or (
                (line := self._kept.line(token, element, row, told.birth, told.listed)) is None
            ):
                known[mark] = row
            else:
                is_same = row.birth == told.birth
                done.append(Told(row.date or 0, element, line, row if is_same else row._replace(birth=told.birth)))
        late = self._first(token, new, done) if new else {}
        if known or late:
            done += self._again(token, known | late, tellings)
        return done

    def _first(self, token: Token, rows: Mapping[bytes, tuple[str, FileRow]], done: list[Told]) -> dict[bytes, FileRow]:
        """Add the entries of files that this token never listed. Return the files that another request has listed now.

        Ids, births and sealed forms are stored in one transaction.
        """
        made: dict[bytes, tuple[Telling, Listed, FileRow, Birth | None]] = {}
        if token.held is not None:
            self._births.check_master(token)
        for mark, (element, row) in rows.items():
            record = birth = None
            if token.held is not None:
                if (born := self._births.made(token, row)) is None:
                    continue
                record, birth = born
            entry = self._sealings.entry(token, row, birth, is_new=True, element=element)
            made[mark] = (
                Telling(file=row.id, birth=record, listed=self._kept.kept(token, row, record, entry)),
                entry,
                row if record is None else row._replace(birth=record),
                birth,
            )
        there = self._state.add_tellings(token.scope, {mark: each[0] for mark, each in made.items()})
        for mark, (telling, entry, row, birth) in made.items():
            if mark not in there:
                done.append(_told(entry, row))
                if birth is not None and telling.birth is not None:
                    self._births.remember(telling.birth, birth)
        # Return those that cannot be sealed, too: `Births.of_all` logs how many there are.
        return {mark: row for mark, (_, row) in rows.items() if mark in there or mark not in made}

    def _again(self, token: Token, rows: Mapping[bytes, FileRow], before: Mapping[bytes, Telling]) -> list[Told]:
        """Return the entries of files that changed since they were listed, or that another request has listed now."""
        self._state.give_ids(token.scope, [(mark, row.id) for mark, row in rows.items()])
        if token.held is None:
            found = [(self._sealings.entry(token, row), mark, row) for mark, row in rows.items()]
        else:
            found = [
                (self._sealings.entry(token, row, birth), mark, row)
                for mark, row, birth in self._births.of_all(token, list(rows.items()))
            ]
        keep = {
            mark: telling
            for entry, mark, row in found
            if (telling := Telling(row.id, row.birth, self._kept.kept(token, row, row.birth, entry))).listed is not None
            and before.get(mark) != telling
        }
        if keep:
            self._state.keep_listed(token.scope, keep)
        return [_told(entry, row) for entry, _, row in found]


def _told(entry: Listed, row: FileRow) -> Told:
    return Told(entry.date, entry.id, encode_entry(entry), row)
