"""The tamper catalogue: what someone with the database, the storage or the checkpoints in hand could do, one by one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack
from msgspec.structs import replace

from ledger.checkpoint import Checkpoint, origin_of, sign_checkpoint, unverified_checkpoint
from ledger.codec import Header, decode_header, decode_payload, encode_header, encode_payload, leaf_hash, payload_digest
from ledger.events import SourceBegan
from ledger.merkle import Frontier
from tests.tamper.world import KEY, OTHER_KEY, SOURCES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from tests.tamper.world import Places, World

    Act = Callable[[World, Places], None]


@dataclass(frozen=True, slots=True)
class Tamper:
    """One mutation, the kind of the finding that names it, and the position or object that it must name.

    `position` may depend on the world: -1 is the head's, -2 the one after it. `near` lies in the batch whose
    beginning is named: which event of a batch was forged, no tree can tell. `object` is a name in `Places.objects`.
    """

    name: str
    act: Act
    kind: str
    position: int | None = None
    object: str | None = None
    near: int | None = None
    touches_files: bool = False


# --- rows of events --------------------------------------------------------------------------------------------------

POSITIONS = (1, 6, 40, 256, -1)


def _at(position: int, places: Places) -> int:
    return places.head if position == -1 else position


def _edit(column: str, expression: str) -> Callable[[int], Act]:
    def at(position: int) -> Act:
        def act(world: World, places: Places) -> None:
            with world.sql() as sql:
                sql.execute(f"UPDATE event SET {column} = {expression} WHERE seq = ?", (_at(position, places),))

        return act

    return at


def _flip(column: str, byte: int, bit: int = 1) -> Callable[[int], Act]:
    def at(position: int) -> Act:
        def act(world: World, places: Places) -> None:
            seq = _at(position, places)
            with world.sql() as sql:
                (held,) = sql.execute(f"SELECT {column} FROM event WHERE seq = ?", (seq,)).fetchone()
                changed = bytearray(held)
                changed[byte] ^= bit
                sql.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", (bytes(changed), seq))

        return act

    return at


EDITS: dict[str, tuple[Callable[[int], Act], str]] = {
    "type renamed": (_edit("type", "'Remote' || type"), "column_mismatch"),
    "schema version raised": (_edit("schema_version", "schema_version + 1"), "column_mismatch"),
    "flags set": (_edit("flags", "1 - flags"), "column_mismatch"),
    "recorded later": (_edit("recorded_us", "recorded_us + 1"), "column_mismatch"),
    "recorded earlier": (_edit("recorded_us", "recorded_us - 10000000"), "column_mismatch"),
    "observed later": (_edit("observed_us", "observed_us + 1"), "column_mismatch"),
    "writer renamed": (_edit("writer", "'else'"), "column_mismatch"),
    "stream version raised": (_edit("stream_version", "stream_version + 1000"), "column_mismatch"),
    "stream exchanged": (
        _edit("stream", "CASE stream WHEN 4 THEN 6 ELSE 4 END, stream_version = 9999"),
        "column_mismatch",
    ),
    "header made a number": (_edit("header", "5"), "unreadable_row"),
    "header made a text": (_edit("header", "'text'"), "unreadable_row"),
    "payload made a text": (_edit("payload", "'text'"), "unreadable_row"),
    "leaf made a text": (_edit("leaf", "'text'"), "unreadable_row"),
    "time made a text": (_edit("recorded_us", "'text'"), "unreadable_row"),
    "type made bytes": (_edit("type", "x'ff'"), "unreadable_row"),
    "writer made a broken text": (_edit("writer", "CAST(x'fffe' AS TEXT)"), "unreadable_row"),
    "payload made a broken text": (_edit("payload", "CAST(x'fffe' AS TEXT)"), "unreadable_row"),
    "stream made a text": (_edit("stream", "'text'"), "unreadable_row"),
    "stream invented": (_edit("stream", "stream + 100000"), "stream_missing"),
    "header flipped in front": (_flip("header", 0), "bad_header"),
    "header flipped in the digest": (_flip("header", -1), "leaf_mismatch"),
    "header cut": (_edit("header", "substr(header, 1, length(header) - 1)"), "bad_header"),
    "header extended": (_edit("header", "CAST(header || x'00' AS BLOB)"), "bad_header"),
    "header emptied": (_edit("header", "x''"), "bad_header"),
    "nonce flipped": (_flip("nonce", 0), "payload_mismatch"),
    "nonce taken": (_edit("nonce", "NULL"), "payload_mismatch"),
    "payload flipped": (_flip("payload", -1), "payload_mismatch"),
    "payload cut": (_edit("payload", "substr(payload, 1, length(payload) - 1)"), "payload_mismatch"),
    "payload extended": (_edit("payload", "CAST(payload || x'00' AS BLOB)"), "payload_mismatch"),
    "payload emptied": (_edit("payload", "x''"), "payload_mismatch"),
    "payload and nonce taken": (_edit("payload", "NULL, nonce = NULL"), "payload_missing"),
    "leaf flipped": (_flip("leaf", 31), "leaf_mismatch"),
    "leaf emptied": (_edit("leaf", "x''"), "leaf_mismatch"),
}


def event_edits() -> Iterator[Tamper]:
    for name, (edit, kind) in EDITS.items():
        for position in POSITIONS:
            yield Tamper(f"{name} at {position}", edit(position), kind, position)


def _delete(where: str) -> Act:
    def act(world: World, places: Places) -> None:
        with world.sql() as sql:
            sql.execute(f"DELETE FROM event WHERE {where.replace('HEAD', str(places.head))}")

    return act


def _swap(first: int, second: int, columns: str) -> Act:
    def act(world: World, places: Places) -> None:
        del places
        with world.sql() as sql:
            sql.execute("CREATE TEMP TABLE held AS SELECT * FROM event WHERE seq IN (?, ?)", (first, second))
            names = [name.strip() for name in columns.split(",")]
            if "stream" in names:
                sql.execute("UPDATE event SET stream_version = -seq WHERE seq IN (?, ?)", (first, second))
            for to, of in ((first, second), (second, first)):
                sets = ", ".join(f"{name} = (SELECT {name} FROM held WHERE seq = {of})" for name in names)
                sql.execute(f"UPDATE event SET {sets} WHERE seq = {to}")

    return act


ALL_COLUMNS = (
    "stream, stream_version, type, schema_version, flags, recorded_us, observed_us, writer, header, nonce, payload,leaf"
)


def _insert_copy(of: int, at: str) -> Act:
    """Insert a copy of an event; its stream version must be made unique, or the database itself would refuse."""

    def act(world: World, places: Places) -> None:
        seq = places.head + 1 if at == "end" else int(at)
        with world.sql() as sql:
            sql.execute(
                f"INSERT INTO event SELECT {seq}, stream, stream_version + 5000, type, schema_version, flags,"
                f" recorded_us, observed_us, writer, header, nonce, payload, leaf FROM event WHERE seq = {of}"
            )

    return act


def _renumber(of: int, to: str) -> Act:
    def act(world: World, places: Places) -> None:
        with world.sql() as sql:
            sql.execute(f"UPDATE event SET seq = {to.replace('HEAD', str(places.head))} WHERE seq = {of}")

    return act


def _shift(after: int) -> Act:
    """Move every event from `after` on one place up, to make room for another."""

    def act(world: World, places: Places) -> None:
        with world.sql() as sql:
            for seq in range(places.head, after - 1, -1):
                sql.execute("UPDATE event SET seq = seq + 1 WHERE seq = ?", (seq,))

    return act


def row_moves() -> Iterator[Tamper]:
    for position in (1, 2, 40, 150, 256):
        yield Tamper(f"event {position} dropped", _delete(f"seq = {position}"), "missing_event", position)
    yield Tamper("the last event dropped", _delete("seq = HEAD"), "missing_event", -1)
    yield Tamper("the last twenty dropped", _delete("seq > HEAD - 20"), "missing_event", None)
    yield Tamper("a range dropped", _delete("seq BETWEEN 100 AND 120"), "missing_event", 100)
    yield Tamper("every event dropped", _delete("1"), "missing_event", 1)
    for first, second in ((10, 11), (40, 90), (150, 256)):
        yield Tamper(f"{first} and {second} swapped", _swap(first, second, ALL_COLUMNS), "column_mismatch", first)
        yield Tamper(
            f"payloads of {first} and {second} swapped", _swap(first, second, "nonce, payload"),
            "payload_mismatch", first,
        )  # fmt: skip
    for of in (5, 150):
        yield Tamper(f"a copy of {of} appended", _insert_copy(of, "end"), "beyond_head", -2)
    for of in (5, 150):
        yield Tamper(f"{of} renumbered to the end", _renumber(of, "HEAD + 7"), "missing_event", of)
        yield Tamper(f"{of} renumbered below", _renumber(of, "-3"), "missing_event", of)
    for after in (2, 40, 200):
        yield Tamper(f"room made at {after}", _shift(after), "missing_event", after)


# --- consistent forgery ----------------------------------------------------------------------------------------------


def _forge(position: int, *, leaf: bool = True, head: bool = False) -> Act:
    """Change a payload and recompute everything in the event's own row; with `head`, the head's frontier too."""

    def act(world: World, places: Places) -> None:
        seq = _at(position, places)
        with world.sql() as sql:
            _forge_row(sql, seq, leaf=leaf)
            if head:
                leaves = [row[0] for row in sql.execute("SELECT leaf FROM event ORDER BY seq")]
                sql.execute("UPDATE head SET frontier = ?", (Frontier().extend(leaves).stored,))
                for (last,) in sql.execute("SELECT last FROM batch WHERE frontier IS NOT NULL").fetchall():
                    frontier = Frontier().extend(leaves[:last]).stored
                    sql.execute("UPDATE batch SET frontier = ? WHERE last = ?", (frontier, last))

    return act


def _forge_row(sql: sqlite3.Connection, seq: int, *, leaf: bool) -> None:
    stored, nonce, payload = sql.execute("SELECT header, nonce, payload FROM event WHERE seq = ?", (seq,)).fetchone()
    header = decode_header(stored)
    fact = decode_payload(header.type, header.schema_version, header.flags, payload)
    if isinstance(fact, SourceBegan) or hasattr(fact, "source"):
        changed = replace(fact, source=replace(fact.source, cursor=1))  # type: ignore[union-attr]
    elif hasattr(fact, "element"):
        changed = replace(fact, element=replace(fact.element, tz="Elsewhere"))  # type: ignore[union-attr]
    else:
        changed = replace(fact, program="forged")  # type: ignore[call-arg]
    forged = encode_payload(changed)  # type: ignore[arg-type]
    again = encode_header(header._replace(payload_digest=payload_digest(nonce, forged)))
    sql.execute("UPDATE event SET payload = ?, header = ? WHERE seq = ?", (forged, again, seq))
    if leaf:
        sql.execute("UPDATE event SET leaf = ? WHERE seq = ?", (leaf_hash(again), seq))


def _reheader(position: int, change: Callable[[Header], Header], columns: str) -> Act:
    """Change a header with its columns and leaf, consistently."""

    def act(world: World, places: Places) -> None:
        seq = _at(position, places)
        with world.sql() as sql:
            (stored,) = sql.execute("SELECT header FROM event WHERE seq = ?", (seq,)).fetchone()
            header = change(decode_header(stored))
            again = encode_header(header)
            sets = "".join(f", {column} = ?" for column in columns.split())
            values = [getattr(header, column) for column in columns.split()]
            sql.execute(
                f"UPDATE event SET header = ?, leaf = ?{sets} WHERE seq = ?", (again, leaf_hash(again), *values, seq)
            )

    return act


def _repack(position: int, change: Callable[[bytes], bytes], type_name: str | None = None) -> Act:
    """Write a payload in other bytes, with digest, header and leaf to match; of another type if one is given."""

    def act(world: World, places: Places) -> None:
        seq = _at(position, places)
        with world.sql() as sql:
            row = sql.execute("SELECT header, nonce, payload FROM event WHERE seq = ?", (seq,)).fetchone()
            payload = change(row[2])
            header = decode_header(row[0])._replace(payload_digest=payload_digest(row[1], payload))
            header = header._replace(type=type_name or header.type)
            again = encode_header(header)
            values = (header.type, payload, again, leaf_hash(again), seq)
            sql.execute("UPDATE event SET type = ?, payload = ?, header = ?, leaf = ? WHERE seq = ?", values)

    return act


def _unsorted(payload: bytes) -> bytes:
    held = msgpack.unpackb(payload)
    held["element"] = dict(reversed(held["element"].items()))
    return msgpack.packb(held)


def _longer(payload: bytes) -> bytes:
    return payload.replace(b"\xa4date\xce", b"\xa4date\xd3\x00\x00\x00\x00", 1)


def _extra(payload: bytes) -> bytes:
    return msgpack.packb({**msgpack.unpackb(payload), "zzz": 1})


def _float(payload: bytes) -> bytes:
    held = msgpack.unpackb(payload)
    held["element"]["revision"] = 1.0
    return msgpack.packb(held)


def forgeries() -> Iterator[Tamper]:
    for position in (2, 6, 40, 150, 254):
        yield Tamper(f"{position} forged in its row", _forge(position), "root_mismatch", near=position)
        yield Tamper(f"{position} forged, its leaf left", _forge(position, leaf=False), "leaf_mismatch", position)
        yield Tamper(f"{position} forged with all frontiers", _forge(position, head=True), "fork", None)
    yield Tamper("the last before the head's forged in its row", _forge(-1), "root_mismatch", near=-1)
    raised = {
        "time moved back": (lambda h: h._replace(recorded_us=h.recorded_us - 10**9), "recorded_us", "time_reversed"),
        "time moved on": (lambda h: h._replace(recorded_us=h.recorded_us + 1), "recorded_us", "commit_mismatch"),
        "version skipped": (lambda h: h._replace(stream_version=h.stream_version + 9), "stream_version", "bad_version"),
        "flag taken": (lambda h: h._replace(flags=1 - h.flags), "flags", "bad_flags"),
        "type changed": (lambda h: h._replace(type="RemoteVanished"), "type", "contradiction"),
        "type unknown": (lambda h: h._replace(type="Unheard"), "type", "root_mismatch"),
        "type unknown and critical": (lambda h: h._replace(type="Unheard", flags=1), "type flags", "unknown_critical"),
        "stream digest changed": (lambda h: h._replace(stream_digest=bytes(32)), "", "stream_mismatch"),
        "position changed": (lambda h: h._replace(seq=h.seq + 1), "", "column_mismatch"),
        "writer changed": (lambda h: h._replace(writer="else"), "writer", "root_mismatch"),
    }
    for name, (change, columns, kind) in raised.items():
        for position in (40, 151):
            where = {"near": position} if kind == "root_mismatch" else {"position": position}
            yield Tamper(f"{name} at {position}, consistently", _reheader(position, change, columns), kind, **where)
    for name, change, kind in (
        ("keys unsorted", _unsorted, "bad_payload"),
        ("integer longer than need be", _longer, "not_canonical"),
        ("field added", _extra, "bad_payload"),
        ("float", _float, "bad_payload"),
        ("no msgpack", lambda _: b"\xc1", "bad_payload"),
    ):
        for position in (40, 150):
            yield Tamper(f"payload with {name} at {position}", _repack(position, change), kind, position)
    for name, payload in (
        ("nested too deep", b"\x81\xa1a" + b"\x91" * 900 + b"\xc0"),
        ("with a number of more than 63 bits", b"\x81\xa1a\xcf" + b"\xff" * 8),
        ("with a signed number that is not negative", b"\x81\xa1a\xd0\x01"),
    ):
        act = _repack(40, lambda _, payload=payload: payload, "Unheard")
        yield Tamper(f"payload of an unknown type {name}", act, "not_canonical", 40)


def _roll_back(stage: int) -> Act:
    def act(world: World, places: Places) -> None:
        del places
        shutil.copy(world.folder / "stages" / f"{stage}.db", world.folder / "old.db")
        with world.sql() as sql:
            sql.execute("COMMIT")
            sql.execute("ATTACH ? AS old", (str(world.folder / "old.db"),))
            sql.execute("BEGIN")
            for table in TABLES:
                sql.execute(f"DELETE FROM main.{table}")
                sql.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table}")

    return act


TABLES = (
    "stream", "event", "head", "batch", "source", "entry", "copy", "tally", "snapshot", "snapshot_chunk", "checkpoint",
)  # fmt: skip


def rollbacks() -> Iterator[Tamper]:
    for stage in range(7):
        yield Tamper(f"the whole database put back to stage {stage}", _roll_back(stage), "rolled_back")


# --- head, commits, streams ------------------------------------------------------------------------------------------


def _sql(statement: str) -> Act:
    def act(world: World, places: Places) -> None:
        text = statement.replace("HEAD", str(places.head)).replace("ERASED", str(places.erased))
        with world.sql() as sql:
            for each in text.split(";"):
                sql.execute(each)

    return act


def frame() -> Iterator[Tamper]:
    head = {
        "position lowered": ("UPDATE head SET position = position - 1", "beyond_head"),
        "position raised": ("UPDATE head SET position = position + 1", "missing_event"),
        "position zero": ("UPDATE head SET position = 0, frontier = x'', streams = 0, recorded_us = 0", "beyond_head"),
        "time changed": ("UPDATE head SET recorded_us = recorded_us + 1", "head_mismatch"),
        "streams lowered": ("UPDATE head SET streams = streams - 1", "head_mismatch"),
        "streams raised": ("UPDATE head SET streams = streams + 1", "head_mismatch"),
        "position made a text": ("UPDATE head SET position = 'text'", "head_mismatch"),
        "frontier made a text": ("UPDATE head SET frontier = 'text'", "head_mismatch"),
        "frontier exchanged": ("UPDATE head SET frontier = zeroblob(length(frontier))", "head_mismatch"),
        "frontier cut": ("UPDATE head SET frontier = substr(frontier, 1, 32)", "head_mismatch"),
        "frontier emptied": ("UPDATE head SET frontier = x''", "head_mismatch"),
    }
    for name, (statement, kind) in head.items():
        yield Tamper(f"head: {name}", _sql(statement), kind)
    commits = {
        "one dropped": "DELETE FROM batch WHERE first = 2",
        "the last dropped": "DELETE FROM batch WHERE last = HEAD",
        "all dropped": "DELETE FROM batch",
        "time changed": "UPDATE batch SET recorded_us = recorded_us + 1 WHERE last = 256",
        "begun later": "UPDATE batch SET first = first + 1 WHERE first = 5",
        "begun earlier": "UPDATE batch SET first = first - 1 WHERE first = 5",
        "ended later": "UPDATE batch SET last = last + 1 WHERE last = HEAD",
        "frontier exchanged": "UPDATE batch SET frontier = zeroblob(32) WHERE frontier IS NOT NULL",
        "frontier taken": "UPDATE batch SET frontier = NULL",
        "frontier invented": "UPDATE batch SET frontier = zeroblob(64) WHERE first = 5",
        "time made a text": "UPDATE batch SET recorded_us = 'text' WHERE last = 256",
        "frontier made a text": "UPDATE batch SET frontier = 'text' WHERE frontier IS NOT NULL",
        "one invented": "INSERT INTO batch VALUES (HEAD + 1, HEAD + 1, 1, NULL, NULL)",
    }
    for name, statement in commits.items():
        yield Tamper(f"commits: {name}", _sql(statement), "commit_mismatch")
    key = "UPDATE stream SET key = CAST({} AS BLOB) WHERE id = 10"
    exchange = (
        "CREATE TEMP TABLE held AS SELECT id, key FROM stream WHERE id IN (10, 11);"
        "UPDATE stream SET key = NULL WHERE id IN (10, 11);"
        "UPDATE stream SET key = (SELECT key FROM held WHERE held.id = 21 - stream.id) WHERE id IN (10, 11)"
    )
    streams = {
        "renamed": (key.format("key || x'41'"), "stream_mismatch"),
        "renamed within its source": (key.format("substr(key, 1, 22) || x'7a7a'"), "stream_mismatch"),
        "moved to another source": (key.format(f"x'{SOURCES[1].hex()}' || substr(key, 17)"), "stream_mismatch"),
        "moved to a source that never began": (key.format(f"x'{'cc' * 16}' || substr(key, 17)"), "unknown_source"),
        "made a source": (key.format("substr(key, 1, 16) || x'407800'"), "misplaced"),
        "made no text": (key.format("substr(key, 1, 16) || x'fffe'"), "stream_mismatch"),
        "made a text": ("UPDATE stream SET key = 'text' WHERE id = 10", "unknown_source"),
        "made a broken text": ("UPDATE stream SET key = CAST(x'fffe' AS TEXT) WHERE id = 10", "unknown_source"),
        "its key taken": ("UPDATE stream SET key = NULL WHERE id = 10", "not_erased"),
        "dropped": ("DELETE FROM stream WHERE id = 10", "stream_missing"),
        "invented": ("INSERT INTO stream VALUES (100000, x'00')", "stream_unknown"),
        "an erased one given a key": ("UPDATE stream SET key = x'7a' WHERE id = ERASED", "payload_missing"),
        "two exchanged": (exchange, "stream_mismatch"),
    }
    for name, (statement, kind) in streams.items():
        yield Tamper(f"streams: {name}", _sql(statement), kind)


# --- the projection --------------------------------------------------------------------------------------------------


def projection() -> Iterator[Tamper]:
    edits = {
        "source": "1 - source + 2",
        "version": "version + 1",
        "seq": "seq - 1",
        "seq of another": "(SELECT max(seq) FROM entry)",
        "state": "'vanished'",
        "due": "1",
        "date": "date + 1",
        "claimed": "7",
        "size": "size + 1",
        "sha256": "zeroblob(32)",
        "size made a text": "'text'",
        "date made a text": "'text'",
        "sha256 made a text": "'text'",
    }
    columns = {"due": "due_us"}
    for name, expression in edits.items():
        for stream in (10, 20):
            column = columns.get(name, name.split()[0])
            statement = f"UPDATE entry SET {column} = {expression} WHERE stream = {stream}"
            yield Tamper(f"entry {stream}: {name} edited", _sql(statement), "index_mismatch")
    yield Tamper("entry dropped", _sql("DELETE FROM entry WHERE stream = 10"), "index_missing")
    yield Tamper("all entries dropped", _sql("DELETE FROM entry"), "index_missing")
    yield Tamper("the failing entry made due", _sql("UPDATE entry SET due_us = 1 WHERE due_us > 1"), "index_mismatch")
    yield Tamper(
        "the damage hidden", _sql("UPDATE entry SET state = 'current' WHERE state = 'vanished'"), "index_mismatch"
    )
    copies = {
        "size edited": "UPDATE copy SET size = size + 1 WHERE stream = 10",
        "place edited": "UPDATE copy SET seq = seq + 1 WHERE stream = 10",
        "state edited": "UPDATE copy SET state = 'lost' WHERE stream = 10",
        "released so that nobody looks": "UPDATE copy SET state = 'released' WHERE stream = 10",
        "object edited": "UPDATE copy SET sha256 = zeroblob(32) WHERE stream = 20",
        "size made a text": "UPDATE copy SET size = 'text' WHERE stream = 10",
        "object made a text": "UPDATE copy SET sha256 = 'text' WHERE stream = 60",
        "dropped": "DELETE FROM copy WHERE stream = 10",
        "all dropped": "DELETE FROM copy",
        "invented": "INSERT INTO copy VALUES (zeroblob(32), 10, 5, 5, 'sound')",
    }
    for name, statement in copies.items():
        yield Tamper(f"copies: {name}", _sql(statement), "copies_mismatch")
    tallies = {
        "elements edited": "UPDATE tally SET elements = elements + 1 WHERE state = 'current'",
        "bytes edited": "UPDATE tally SET bytes = 0 WHERE state = 'current'",
        "dropped": "DELETE FROM tally WHERE state = 'vanished'",
        "invented": "INSERT INTO tally VALUES (2, 'lost', 3, 0)",
    }
    for name, statement in tallies.items():
        yield Tamper(f"tallies: {name}", _sql(statement), "tally_mismatch")
    sources = {
        "cursor's event edited": "UPDATE source SET seq = seq - 1 WHERE no = 1",
        "version edited": "UPDATE source SET version = 1 WHERE no = 1",
        "event made a text": "UPDATE source SET seq = 'text' WHERE no = 1",
        "renamed": "UPDATE source SET id = zeroblob(16) WHERE no = 1",
        "dropped": "DELETE FROM source WHERE no = 2",
        "invented": "INSERT INTO source VALUES (3, zeroblob(16), 1, 1, 1)",
    }
    for name, statement in sources.items():
        yield Tamper(f"sources: {name}", _sql(statement), "source_mismatch")
    moved = (
        "UPDATE snapshot_chunk SET position = {0} WHERE position = 200;"
        "UPDATE snapshot SET position = {0} WHERE position = 200"
    )
    snapshots = {
        "flipped": "UPDATE snapshot_chunk SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE position = 200",
        "cut": "UPDATE snapshot_chunk SET data = substr(data, 1, 40)",
        "dropped in part": "DELETE FROM snapshot_chunk WHERE position = 200",
        "moved": moved.format(100),
        "moved beyond the end": moved.format(9999),
        "made a text": "UPDATE snapshot_chunk SET data = 'text' WHERE position = 200",
    }
    for name, statement in snapshots.items():
        yield Tamper(f"snapshots: {name}", _sql(statement), "bad_snapshot")


# --- objects ---------------------------------------------------------------------------------------------------------


def _file(which: str, change: Callable[[World, bytes], None]) -> Act:
    def act(world: World, places: Places) -> None:
        change(world, places.objects[which])

    return act


def _rewrite(change: Callable[[bytes], bytes]) -> Callable[[World, bytes], None]:
    def act(world: World, sha256: bytes) -> None:
        path = world.object(sha256)
        path.write_bytes(change(path.read_bytes()))

    return act


def _flipped(at: int) -> Callable[[bytes], bytes]:
    def change(held: bytes) -> bytes:
        changed = bytearray(held)
        changed[at] ^= 0x10
        return bytes(changed)

    return change


def _remove(world: World, sha256: bytes) -> None:
    world.object(sha256).unlink()


def _make_folder(world: World, sha256: bytes) -> None:
    world.object(sha256).unlink()
    world.object(sha256).mkdir()


def _make_link(world: World, sha256: bytes) -> None:
    path = world.object(sha256)
    path.rename(world.folder / "elsewhere")
    path.symlink_to(world.folder / "elsewhere")


def _exchange(world: World, sha256: bytes) -> None:
    other = next(path for path in sorted(world.storage.glob("objects/*/*")) if path != world.object(sha256))
    held = other.read_bytes()
    other.write_bytes(world.object(sha256).read_bytes())
    world.object(sha256).write_bytes(held)


def _misname(world: World, sha256: bytes) -> None:
    path = world.object(sha256)
    path.rename(path.with_name(path.name.upper() + "x"))


def objects() -> Iterator[Tamper]:
    changes: dict[str, tuple[Callable[[World, bytes], None], str]] = {
        "first byte flipped": (_rewrite(_flipped(0)), "damaged_object"),
        "middle byte flipped": (_rewrite(_flipped(350)), "damaged_object"),
        "last byte flipped": (_rewrite(_flipped(-1)), "damaged_object"),
        "truncated": (_rewrite(lambda held: held[:-1]), "damaged_object"),
        "extended": (_rewrite(lambda held: held + b"\0"), "damaged_object"),
        "emptied": (_rewrite(lambda _: b""), "damaged_object"),
        "replaced": (_rewrite(lambda held: bytes(len(held))), "damaged_object"),
        "exchanged with another": (_exchange, "damaged_object"),
        "deleted": (_remove, "lost_object"),
        "renamed": (_misname, "lost_object"),
        "made a folder": (_make_folder, "lost_object"),
        "made a symbolic link": (_make_link, "lost_object"),
    }
    for name, (change, kind) in changes.items():
        for which in ("current", "shared", "old", "vanished"):
            yield Tamper(f"object {which}: {name}", _file(which, change), kind, None, which, touches_files=True)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def _note(change: Callable[[bytes, World], bytes], number: int = 1) -> Act:
    def act(world: World, places: Places) -> None:
        del places
        path = sorted(world.checkpoints.iterdir())[number]
        path.write_bytes(change(path.read_bytes(), world))

    return act


def _resigned(note: bytes, _: World) -> bytes:
    return sign_checkpoint(unverified_checkpoint(note), OTHER_KEY)


def _claiming(note: bytes, **change: object) -> bytes:
    held = unverified_checkpoint(note)
    return sign_checkpoint(replace(held, **change), KEY)  # type: ignore[arg-type]


def checkpoints() -> Iterator[Tamper]:
    changes: dict[str, tuple[Callable[[bytes, World], bytes], str]] = {
        "re-signed with another key": (_resigned, "unknown_key"),
        "size edited": (lambda note, _: note.replace(b"\n1", b"\n2", 1), "bad_signature"),
        "origin edited": (lambda note, _: b"x" + note, "bad_signature"),
        "signature flipped": (
            lambda note, _: note[:-6] + (b"B" if note[-6:-5] != b"B" else b"C") + note[-5:],
            "bad_signature",
        ),
        "signature cut": (lambda note, _: note[:-9], "bad_checkpoint"),
        "signature taken": (lambda note, _: note.partition(b"\n\n")[0] + b"\n\n", "bad_checkpoint"),
        "emptied": (lambda _, __: b"", "bad_checkpoint"),
        "made no text": (lambda _, __: b"\xff\xfe", "bad_checkpoint"),
        "signed over another root": (lambda note, _: _claiming(note, root=bytes(32)), "fork"),
        "signed over more events": (lambda note, _: _claiming(note, size=10**6), "rolled_back"),
        "signed for another ledger": (
            lambda note, _: _claiming(note, origin=origin_of(bytes(16))),
            "foreign_checkpoint",
        ),
    }
    for name, (change, kind) in changes.items():
        yield Tamper(f"checkpoint file: {name}", _note(change), kind, touches_files=True)
    forked = sign_checkpoint(Checkpoint(origin="x", size=5, root=bytes(32)), OTHER_KEY).decode().replace("'", "''")
    in_database = {
        "re-signed": (
            f"UPDATE checkpoint SET note = '{forked}' WHERE id = (SELECT max(id) FROM checkpoint)",
            "unknown_key",
        ),
        "size edited": ("UPDATE checkpoint SET size = size + 1", "bad_checkpoint"),
        "note made bytes": ("UPDATE checkpoint SET note = x'00ff'", "bad_checkpoint"),
        "size made a text": ("UPDATE checkpoint SET size = 'text'", "bad_checkpoint"),
        "note emptied": ("UPDATE checkpoint SET note = ''", "bad_checkpoint"),
        "note edited": ("UPDATE checkpoint SET note = 'x' || note", "bad_signature"),
    }
    for name, (statement, kind) in in_database.items():
        yield Tamper(f"checkpoint in the database: {name}", _sql(statement), kind)


def rows_beside_the_log() -> Iterator[Tamper]:
    """Rows that no event of their own stands for, each moved or taken away."""
    statements = {
        "source points past the head": ("UPDATE source SET seq = 100000 WHERE no = 1", "source_mismatch"),
        "source taken": ("DELETE FROM source WHERE no = 1", "source_mismatch"),
        "every source taken": ("DELETE FROM source", "source_mismatch"),
        "source renumbered": ("UPDATE source SET no = 9 WHERE no = 1", "source_mismatch"),
        "sum of another source": (
            "UPDATE tally SET source = 99 WHERE source = 1 AND state = 'current'",
            "tally_mismatch",
        ),
        "head taken": ("DELETE FROM head", "head_mismatch"),
        "idempotency key made a number": ("UPDATE batch SET batch_key = 5 WHERE first = 1", "commit_mismatch"),
        "checkpoint under another digest": (
            "UPDATE checkpoint SET digest = zeroblob(32) WHERE id = (SELECT min(id) FROM checkpoint)",
            "bad_checkpoint",
        ),
        "checkpoint renumbered": (
            "UPDATE checkpoint SET id = 7777 WHERE id = (SELECT min(id) FROM checkpoint)",
            "bad_checkpoint",
        ),
    }
    for name, (statement, kind) in statements.items():
        yield Tamper(name, _sql(statement), kind)


def catalogue() -> list[Tamper]:
    """Return all of it."""
    parts = (
        event_edits, row_moves, forgeries, rollbacks, frame, projection, objects, checkpoints, rows_beside_the_log,
    )  # fmt: skip
    return [each for part in parts for each in part()]
