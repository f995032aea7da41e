"""The catalogue's rows. The scan writes them and requests read them. The writing transaction sets the dates."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from kropot.gateway.state import tables
from kropot.gateway.state.rows import PER_SECOND, FileRow, Telling, VersionPage, next_second
from kropot.gateway.state.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kropot.gateway.state.rows import NewFile

_MINUTE: Final = 60
_DAY: Final = 86_400
_DATED_AT_ONCE = 65_536
_ASKED_AT_ONCE = 500

_AUDIENCE = sa.func.coalesce(tables.file.c.audience, 0).label("audience")

_ROW_COLUMNS = (
    tables.file.c.id,
    tables.file.c.path,
    tables.file.c.identity,
    tables.file.c.mode,
    tables.file.c.nonce,
    tables.file.c.sha256,
    tables.file.c.date,
    tables.file.c.is_due,
    tables.file.c.origin,
    tables.file.c.seal,
    tables.file.c.restless_s,
    _AUDIENCE,
    tables.file.c.facts,
)
"""The fields of a `FileRow` in their order, without the birth."""

FOR_OTHERS: Final = (0, 1)
FOR_SEALED: Final = (0, 2)
"""The audiences (`facts.Audience`) of tokens of sc2. `FOR_OTHERS` are those of all other tokens."""

_VERSION = ("identity", "mode", "nonce", "sha256", "origin", "seal", "restless_s", "audience", "facts")
_NEW = ("key", "path", *_VERSION)


class Files(Transactions):
    """The files of the catalogue, and the ids by which tokens know them."""

    # --- for the scan -------------------------------------------------------------------------------------------------

    def known(self, keys: Sequence[bytes]) -> dict[bytes, FileRow]:
        """Return the files with these keys, by key."""
        wanted = sa.select(tables.file.c.key, *_ROW_COLUMNS).where(tables.file.c.key.in_(keys))
        with self.read() as at:
            return {row[0]: FileRow(*row[1:]) for row in at.execute(wanted)}

    def add_undated(self, files: Sequence[NewFile]) -> None:
        """Record the versions of a first scan, without a date."""
        with self.write() as at:
            self._put(at, files, None)

    def date_undated(self, now_s: int) -> None:
        """Date the versions that a first scan found, in the seconds up to now, and allow lists.

        Dates rise with row ids: each second covers 256 ids, so it holds at most 256 versions. After an interruption,
        the dates continue after the last committed second.
        """
        more = True
        while more:
            with self.write() as at:
                last = at.scalar(sa.select(tables.source.c.last_date))
                undated = tables.file.c.date.is_(None)
                low, high = at.execute(
                    sa.select(sa.func.min(tables.file.c.id), sa.func.max(tables.file.c.id)).where(undated)
                ).one()
                if low is None:
                    at.execute(tables.source.update().values(is_ready=True, last_date=now_s if last is None else last))
                    return
                base = now_s - (high - low) // PER_SECOND if last is None else last + 1
                until = low + _DATED_AT_ONCE
                among = undated & (tables.file.c.id < until)
                at.execute(tables.file.update().where(among).values(date=base + (tables.file.c.id - low) // PER_SECOND))
                dated = (tables.file.c.id >= low) & (tables.file.c.id < until) & (tables.file.c.date >= base)
                minutes = (tables.file.c.date // _MINUTE).label("minutes")
                counted = sa.select(minutes, _AUDIENCE, sa.func.count()).where(dated)
                counts = at.execute(counted.group_by("minutes", _AUDIENCE)).all()
                self._tally(at, {(audience, int(minute) * _MINUTE): count for minute, audience, count in counts})
                at.execute(tables.source.update().values(last_date=base + (min(high, until - 1) - low) // PER_SECOND))

    def announce(self, files: Sequence[NewFile], now_s: int) -> int:
        """Record versions with dates that no client has seen yet, at most 256 per second. Return the last date.

        The commit closes these seconds: no later version gets one of them.
        """
        with self.write() as at:
            last = at.scalar(sa.select(tables.source.c.last_date))
            moved = Counter[tuple[int, int]]()
            for start in range(0, len(files), PER_SECOND):
                batch = files[start : start + PER_SECOND]
                last = next_second(now_s, last)
                self._put(at, batch, last)
                for file in batch:
                    moved[file.audience, last] += 1
            for file in files:
                if file.old_date is not None:
                    moved[file.old_audience, file.old_date] -= 1
            self._tally(at, moved)
            at.execute(tables.source.update().values(last_date=last))
        return now_s if last is None else last

    def renew(self, file: FileRow, now: FileRow) -> bool:
        """Store the new state of a file that changed since its last scan. The next scan announces it if it is due.

        Return False if another request was faster. The caller must then read the row again.
        """
        with self.write() as at:
            as_read = (tables.file.c.nonce == file.nonce) & (tables.file.c.identity == file.identity)
            done = at.execute(
                tables.file.update()
                .where(tables.file.c.id == file.id, as_read)
                .values({name: getattr(now, name) for name in (*_VERSION, "is_due")})
            )
            return done.rowcount == 1

    def keep_silently(self, files: Sequence[NewFile]) -> None:
        """Record versions whose bytes and listed metadata did not change. They keep their dates."""
        with self.write() as at:
            self._update(at, files, _VERSION)
            moved = Counter[tuple[int, int]]()
            for file in files:
                if file.old_date is not None and file.old_audience != file.audience:
                    moved[file.old_audience, file.old_date] -= 1
                    moved[file.audience, file.old_date] += 1
            self._tally(at, moved)

    def keep_digests(self, files: Sequence[FileRow]) -> None:
        """Store the SHA-256 and the seal of contents that were sent whole, unless they changed meanwhile."""
        with self.write() as at:
            for file in files:
                same = (tables.file.c.nonce == file.nonce) & (tables.file.c.identity == file.identity)
                at.execute(
                    tables.file.update()
                    .where(tables.file.c.id == file.id, same)
                    .values(sha256=file.sha256, seal=file.seal)
                )

    def last_id(self) -> int:
        """Return the highest row id."""
        with self.read() as at:
            return int(at.scalar(sa.select(sa.func.max(tables.file.c.id))) or 0)

    def count_until(self, last_id: int) -> int:
        """Return how many files have a row id up to `last_id`."""
        with self.read() as at:
            total = sa.select(sa.func.count()).select_from(tables.file).where(tables.file.c.id <= last_id)
            return int(at.scalar(total) or 0)

    def paths_after(self, after: int, limit: int) -> list[tuple[int, bytes, int]]:
        """Return (id, path, audience) of up to `limit` files after row id `after`, ordered by id."""
        wanted = (
            sa.select(tables.file.c.id, tables.file.c.path, _AUDIENCE)
            .where(tables.file.c.id > after)
            .order_by(tables.file.c.id)
            .limit(limit)
        )
        with self.read() as at:
            return [(row[0], row[1], row[2]) for row in at.execute(wanted)]

    def forget(self, ids: Sequence[int]) -> None:
        """Remove from the list the files that are gone."""
        gone = tables.file.c.id.in_(ids)
        with self.write() as at:
            moved = Counter[tuple[int, int]]()
            wanted = sa.select(_AUDIENCE, tables.file.c.date).where(gone, tables.file.c.date.is_not(None))
            for audience, date in at.execute(wanted):
                moved[audience, date] -= 1
            at.execute(tables.element.delete().where(tables.element.c.file.in_(ids)))
            at.execute(tables.file.delete().where(gone))
            self._tally(at, moved)

    # --- for requests -------------------------------------------------------------------------------------------------

    def page(
        self, since: int | None, limit: int, audiences: Sequence[int] = FOR_OTHERS, token: int | None = None
    ) -> VersionPage:
        """Return the next files after second `since`, with what is kept for a token's ids of them.

        Only files for one of these `audiences` are counted and returned. The page holds `limit` files, plus all other
        files of its last second.
        """
        floor = -1 if since is None else since
        tellings: dict[bytes, Telling] = {}
        with self.read() as at:
            closed = at.scalar(sa.select(tables.source.c.last_date)) or 0
            wanted = _versions(floor, closed, limit, audiences)
            if token is None:
                files = [FileRow(*row) for row in at.execute(wanted).all()]
            else:
                files = []
                for row in at.execute(_with_tellings(wanted, token)).all():
                    if not files or files[-1].id != row[0]:
                        files.append(FileRow._make(row[:-2]))
                    if row[-2] is not None:
                        tellings[row[-2]] = Telling(row[0], row[-3], row[-1])
            remaining = self._count_from(at, floor, audiences)
        return VersionPage(_whole_seconds(files, limit), remaining, closed, tellings)

    def versions_after(self, since: int, limit: int, audiences: Sequence[int]) -> list[FileRow]:
        """Return the files that `page` returns."""
        with self.read() as at:
            closed = at.scalar(sa.select(tables.source.c.last_date)) or 0
            rows = at.execute(_versions(since, closed, limit, audiences)).all()
        return _whole_seconds([FileRow(*row) for row in rows], limit)

    def give_ids(self, token: int, marks: Sequence[tuple[bytes, int]]) -> None:
        """Store which files the ids of this token stand for. `marks` holds pairs (mark, file id)."""
        with self.read() as at:
            new = self._new_pairs(at, token, marks)
        if not new:
            return
        with self.write() as at:
            # Another list might have been faster, and have stored births with its pairs.
            new = self._new_pairs(at, token, new)
            if not new:
                return
            # Replace old pairs: a file that vanished and came back has a new row, but the same id.
            fresh = tables.element.c.mark.in_([mark for mark, _ in new])
            at.execute(tables.element.delete().where(tables.element.c.token == token, fresh))
            at.execute(tables.element.insert(), [{"token": token, "mark": mark, "file": file} for mark, file in new])

    def find(self, token: int, mark: bytes) -> FileRow | None:
        """Return the file behind an id of this token, or None."""
        joined = tables.element.join(tables.file, tables.file.c.id == tables.element.c.file)
        wanted = (
            sa.select(*_ROW_COLUMNS, tables.element.c.birth)
            .select_from(joined)
            .where(tables.element.c.token == token, tables.element.c.mark == mark)
        )
        with self.read() as at:
            row = at.execute(wanted).one_or_none()
        return None if row is None else FileRow(*row)

    def find_all(self, token: int, marks: Sequence[bytes]) -> list[tuple[bytes, FileRow]]:
        """Return the files behind ids of a token as (mark, row), in no particular order. Unknown ids are left out."""
        joined = tables.element.join(tables.file, tables.file.c.id == tables.element.c.file)
        columns = sa.select(*_ROW_COLUMNS, tables.element.c.birth, tables.element.c.mark).select_from(joined)
        found = []
        with self.read() as at:
            for start in range(0, len(marks), _ASKED_AT_ONCE):
                among = tables.element.c.mark.in_(marks[start : start + _ASKED_AT_ONCE])
                rows = at.execute(columns.where(tables.element.c.token == token, among)).all()
                found += [(row[-1], FileRow._make(row[:-1])) for row in rows]
        return found

    def births(self, token: int, marks: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Return the kept births for these ids of a token, by mark. Unknown ids are left out."""
        with self.read() as at:
            return self._births(at, token, marks)

    def tellings(self, token: int, marks: Sequence[bytes]) -> dict[bytes, Telling]:
        """Return what is kept for these ids of a token, by mark. Unknown ids are left out."""
        columns = sa.select(
            tables.element.c.mark, tables.element.c.file, tables.element.c.birth, tables.element.c.listed
        )
        found: dict[bytes, Telling] = {}
        with self.read() as at:
            for start in range(0, len(marks), _ASKED_AT_ONCE):
                among = tables.element.c.mark.in_(marks[start : start + _ASKED_AT_ONCE])
                rows = at.execute(columns.where(tables.element.c.token == token, among)).all()
                found.update((mark, Telling(file, birth, listed)) for mark, file, birth, listed in rows)
        return found

    def add_tellings(self, token: int, new: Mapping[bytes, Telling]) -> set[bytes]:
        """Store ids of a token, by mark, with all that is kept for them. Return those that were there already.

        An id that is there stays as is: another request was faster, or the id stood for another file.
        """
        with self.write() as at:
            there = set[bytes]()
            marks = list(new)
            for start in range(0, len(marks), _ASKED_AT_ONCE):
                there |= self._births(at, token, marks[start : start + _ASKED_AT_ONCE]).keys()
            rows = [{"token": token, "mark": mark, **each._asdict()} for mark, each in new.items() if mark not in there]
            if rows:
                at.execute(tables.element.insert(), rows)
        return there

    def keep_listed(self, token: int, tellings: Mapping[bytes, Telling]) -> None:
        """Store listed forms, by mark, where the file and the birth are still those that they were made from."""
        same_birth = tables.element.c.birth.is_not_distinct_from(sa.bindparam("of_birth", type_=tables.large))
        change = (
            tables.element.update()
            .where(
                tables.element.c.token == token,
                tables.element.c.mark == sa.bindparam("of_mark"),
                tables.element.c.file == sa.bindparam("of_file"),
                same_birth,
            )
            .values(listed=sa.bindparam("now_listed"))
        )
        values = [
            {"of_mark": mark, "of_file": each.file, "of_birth": each.birth, "now_listed": each.listed}
            for mark, each in tellings.items()
        ]
        with self.write() as at:
            at.execute(change, values)

    def keep_births(self, token: int, births: Sequence[tuple[bytes, bytes | None, bytes]]) -> dict[bytes, bytes | None]:
        """Store births, each as (mark, birth read before, new birth). Return the births that are kept in the end.

        If another request was faster, its birth stays, because a version has one form for everybody.
        """
        with self.write() as at:
            kept = self._births(at, token, [mark for mark, _, _ in births])
            fresh = {mark: new for mark, old, new in births if mark in kept and kept[mark] == old}
            if fresh:
                at.execute(
                    tables.element.update()
                    .where(tables.element.c.token == token, tables.element.c.mark == sa.bindparam("of_mark"))
                    .values(birth=sa.bindparam("new_birth")),
                    [{"of_mark": mark, "new_birth": new} for mark, new in fresh.items()],
                )
        return kept | fresh

    def file(self, file_id: int) -> FileRow | None:
        """Return a file by its row id, or None."""
        with self.read() as at:
            row = at.execute(sa.select(*_ROW_COLUMNS).where(tables.file.c.id == file_id)).one_or_none()
        return None if row is None else FileRow(*row)

    # --- helpers ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _new_pairs(at: sa.Connection, token: int, marks: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Return the pairs (mark, file id) that are not stored yet."""
        of_token = (tables.element.c.token == token) & tables.element.c.mark.in_([mark for mark, _ in marks])
        wanted = sa.select(tables.element.c.mark, tables.element.c.file).where(of_token)
        known = {(row[0], row[1]) for row in at.execute(wanted)}
        return [pair for pair in marks if pair not in known]

    @staticmethod
    def _births(at: sa.Connection, token: int, marks: Sequence[bytes]) -> dict[bytes, bytes | None]:
        wanted = sa.select(tables.element.c.mark, tables.element.c.birth).where(
            tables.element.c.token == token, tables.element.c.mark.in_(marks)
        )
        return {row[0]: row[1] for row in at.execute(wanted)}

    def _put(self, at: sa.Connection, files: Sequence[NewFile], date: int | None) -> None:
        """Insert new files and update known ones."""
        new = [
            {name: getattr(file, name) for name in _NEW} | {"date": date, "is_due": False}
            for file in files
            if file.id is None
        ]
        if new:
            at.execute(tables.file.insert(), new)
        self._update(at, [file for file in files if file.id is not None], _VERSION, {"date": date, "is_due": False})

    def _update(
        self, at: sa.Connection, files: Sequence[NewFile], names: Sequence[str], more: dict[str, Any] | None = None
    ) -> None:
        """Write these fields of known files, and `more`, which is the same for all."""
        if not files:
            return
        values = [{"file_id": file.id} | {name: getattr(file, name) for name in names} | (more or {}) for file in files]
        changed: dict[str, Any] = {name: sa.bindparam(name) for name in (*names, *(more or {}))}
        at.execute(tables.file.update().where(tables.file.c.id == sa.bindparam("file_id")).values(changed), values)

    def _tally(self, at: sa.Connection, moved: Mapping[tuple[int, int], int]) -> None:
        """Update the counts per day and minute, because counting 10 million rows is slow.

        `moved` maps an audience and a second to the change in its number of versions. Each audience has its own spans:
        a span's number is its length plus the audience.
        """
        for length in (_MINUTE, _DAY):
            sums = Counter[tuple[int, int]]()
            for (audience, second), count in moved.items():
                sums[length + audience, second // length] += count
            for (span, bucket), count in sums.items():
                here = (tables.tally.c.span == span) & (tables.tally.c.bucket == bucket)
                done = at.execute(tables.tally.update().where(here).values(versions=tables.tally.c.versions + count))
                if done.rowcount == 0:
                    at.execute(tables.tally.insert().values(span=span, bucket=bucket, versions=count))

    def _count_from(self, at: sa.Connection, since: int, audiences: Sequence[int]) -> int:
        """Return how many versions for these audiences have date `since` or later.

        The tallies give whole days and minutes. The rest of the first minute is counted.
        """
        total = 0
        minute, day = since // _MINUTE + 1, since // _DAY + 1
        for span, low, high in ((_MINUTE, minute, day * _DAY // _MINUTE), (_DAY, day, None)):
            spans = [span + audience for audience in audiences]
            inside = tables.tally.c.span.in_(spans) & (tables.tally.c.bucket >= low)
            if high is not None:
                inside &= tables.tally.c.bucket < high
            total += int(
                at.scalar(sa.select(sa.func.coalesce(sa.func.sum(tables.tally.c.versions), 0)).where(inside)) or 0
            )
        rest = (tables.file.c.date >= since) & (tables.file.c.date < minute * _MINUTE) & _AUDIENCE.in_(audiences)
        return total + int(at.scalar(sa.select(sa.func.count()).select_from(tables.file).where(rest)) or 0)


def _versions(floor: int, closed: int, limit: int, audiences: Sequence[int]) -> sa.Select[Any]:
    """Return a query for the next `limit` files after second `floor`, and up to 256 after them."""
    wanted = sa.select(*_ROW_COLUMNS).order_by(tables.file.c.date, tables.file.c.id).limit(limit + PER_SECOND)
    dated = (tables.file.c.date > floor) & (tables.file.c.date <= closed)
    return wanted.where(dated & _AUDIENCE.in_(audiences))


def _with_tellings(versions: sa.Select[Any], token: int) -> sa.Select[Any]:
    """Return a query for these files, each with the birth, mark and listed form of a token's id of it, if there is one.

    A file with two ids appears twice.
    """
    inner = versions.subquery()
    told = (tables.element.c.file == inner.c.id) & (tables.element.c.token == token)
    return (
        sa.select(*inner.c, tables.element.c.birth, tables.element.c.mark, tables.element.c.listed)
        .select_from(inner.outerjoin(tables.element, told))
        .order_by(inner.c.date, inner.c.id)
    )


def _whole_seconds(files: list[FileRow], limit: int) -> list[FileRow]:
    """Return `limit` files, and all others of the last second among them."""
    if len(files) <= limit:
        return files
    end = files[limit - 1].date or 0
    return [file for file in files if (file.date or 0) <= end]
