"""docs/format.md is enough: a reader written from that page alone reads what the program wrote."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import struct
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Demonstrate, RunCli

CRITICAL = {"ZoneChanged", "CopyReleased", "LastCopyReleased", "ReleaseWithdrawn", "PayloadErased"}
OF_THE_LEDGER = {b"@ledger", b"@instance", b"@audit", b"@retention", b"@freeing"}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def unpacked(data: bytes) -> Any:
    value = msgpack.unpackb(data, raw=False)
    assert msgpack.packb(value, use_bin_type=True) == data, "canonical"
    return value


class Reader:
    """Takes events in their order and believes none of them."""

    def __init__(self) -> None:
        self.frontier: list[bytes] = []
        self.position = self.recorded_us = 0
        self.versions: dict[bytes, int] = {}
        self.salts: dict[bytes, bytes] = {}
        self.elements: dict[bytes, tuple[int, dict[str, Any]]] = {}
        self.objects: dict[bytes, int] = {}

    def take(self, key: bytes, header: bytes, nonce: bytes, payload: bytes) -> list[Any]:
        """Take the next event in; return its header."""
        head, fact = unpacked(header), unpacked(payload)
        form, seq, digest, version, kind_of_fact, _, flags, recorded_us, _, _, payload_digest = head
        source, (kind, _, name) = key[:16], key[16:].partition(b"\0")
        assert (form, seq) == (1, self.position + 1)
        assert payload_digest == sha256(nonce + payload)
        assert recorded_us >= self.recorded_us
        assert version == self.versions.get(key, 0) + 1
        assert flags == (kind_of_fact in CRITICAL)
        if kind_of_fact == "LedgerBegan":
            self.salts[bytes(16)] = fact["salt"]
        elif kind_of_fact == "SourceBegan":
            self.salts[source] = fact["source"]["salt"]
        assert (source == bytes(16)) == (kind in OF_THE_LEDGER)
        assert digest == hmac.digest(self.salts[source], kind + b"\0" + name, "sha256")
        self.versions[key], self.recorded_us = version, recorded_us
        self._grow(sha256(b"\0" + header))
        if "element" in fact:
            self.elements[key] = (seq, fact["element"])
        if kind_of_fact in {"CopyStored", "RemoteCopied"}:
            self.objects[fact["element"]["copy"]["sha256"]] = fact["element"]["copy"]["size"]
        return list(head)

    def _grow(self, leaf: bytes) -> None:
        self.position += 1
        self.frontier.append(leaf)
        size = self.position
        while size % 2 == 0:
            right, left = self.frontier.pop(), self.frontier.pop()
            self.frontier.append(sha256(b"\1" + left + right))
            size //= 2

    @property
    def root(self) -> bytes:
        root = self.frontier[-1]
        for left in reversed(self.frontier[:-1]):
            root = sha256(b"\1" + left + root)
        return root


def in_database(path: Path, reader: Reader) -> None:
    """Read a ledger's tables; the columns, commits and head must be what the headers say."""
    at = sqlite3.connect(path)
    commits = {last: rest for last, *rest in at.execute("SELECT last, recorded_us, frontier FROM batch")}
    for key, header, nonce, payload, leaf, *columns in at.execute(
        "SELECT key, header, nonce, payload, leaf, seq, stream_version, type, schema_version, flags, recorded_us, "
        "observed_us, writer FROM event JOIN stream ON stream.id = event.stream ORDER BY seq"
    ):
        head = reader.take(key, header, nonce, payload)
        assert [head[1], *head[3:10]] == columns
        assert leaf == sha256(b"\0" + header)
        if reader.position in commits:
            assert commits[reader.position] == [reader.recorded_us, b"".join(reader.frontier)]
    (head,) = at.execute("SELECT position, recorded_us, frontier, streams FROM head")
    assert head == (reader.position, reader.recorded_us, b"".join(reader.frontier), len(reader.versions))
    entries = {
        key: rest
        for key, *rest in at.execute(
            "SELECT key, seq, version, state, date, size, sha256 FROM entry JOIN stream ON stream.id = entry.stream"
        )
    }
    assert entries == {
        key: [
            seq,
            reader.versions[key],
            "vanished" if not element["present"] else "current",
            element["date"],
            element["copy"]["size"],
            element["copy"]["sha256"],
        ]
        for key, (seq, element) in reader.elements.items()
    }
    at.close()


def state_of(element: dict[str, Any]) -> str:
    if element["damage"] is not None or not element["present"]:
        return element["damage"] or "vanished"
    copy = element["copy"]
    return "current" if copy is not None and copy["revision"] == element["revision"] else "pending"


def rows_of(reader: Reader) -> Iterator[bytes]:
    """Yield the rows of the state digests as the document describes them, in the order of their keys."""
    for key, (_, element) in sorted(reader.elements.items()):
        kind, _, name = key[16:].partition(b"\0")
        copy = element["copy"] or dict.fromkeys(("sha256", "size", "iv"))
        row = [key[:16], kind.decode(), name.decode(), element["date"], element["tz"], sha256(element["form"])]
        row += [state_of(element), copy["sha256"], copy["size"], copy["iv"]]
        yield msgpack.packb(row, use_bin_type=True)


def sd2(reader: Reader) -> str:
    """Return the state digest as the document describes it."""
    lanes = [0] * 1024
    for row in rows_of(reader):
        told = struct.unpack("<1024H", hashlib.shake_128(b"sd2\0" + row).digest(2048))
        lanes = [(one + other) % 65536 for one, other in zip(lanes, told, strict=True)]
    return "sd2:" + sha256(struct.pack("<1024H", *lanes)).hex()


def in_segment(path: Path) -> Iterator[list[bytes]]:
    """Yield the events of a segment once its ends agree."""
    data = path.read_bytes()
    magic = b"kropot-segment-1\n"
    assert data.startswith(magic)
    end = len(data) - 4 - int.from_bytes(data[-4:], "big")
    last, frontier, digest = unpacked(data[end:-4])
    assert sha256(data[:end]) == digest
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(data[len(magic) : end])
    (ledger_id, first), *events = unpacker
    assert (len(ledger_id), first, last) == (16, 1, len(events))
    assert path.name == f"00000000.partial-{last}"
    assert len(frontier) == 32 * last.bit_count()
    yield from events


def in_storage(storage: Path, reader: Reader) -> None:
    """Compare the objects with what the events name."""
    found = {path.name: path for path in (storage / "objects").glob("*/*")}
    assert set(found) == {name.hex() for name in reader.objects}
    for name, size in reader.objects.items():
        path = found[name.hex()]
        assert path.parent.name == name.hex()[:2]
        assert (path.stat().st_size, sha256(path.read_bytes())) == (size, name)


@pytest.fixture
def home(demonstrate: Demonstrate, tmp_path: Path) -> Path:
    code, _, err = demonstrate("--json")
    assert code == 0, err
    return tmp_path / "kropot-demo"


def test_a_reader_written_from_the_document_reads_ledger_and_storage(run_cli: RunCli, home: Path) -> None:
    reader = Reader()
    in_database(home / "ledger.db", reader)
    in_storage(home / "storage", reader)
    done = run_cli("replay", "--json", "--db-string", f"sqlite:///{home / 'ledger.db'}")
    told = json.loads(done.stdout.splitlines()[0])
    assert (told["position"], told["root"]) == (reader.position, reader.root.hex())
    assert told["state_digest"] == sd2(reader)
    done = run_cli("replay", "--json", "--digest", "sd1", "--db-string", f"sqlite:///{home / 'ledger.db'}")
    assert json.loads(done.stdout)["state_digest"] == "sd1:" + sha256(b"".join(rows_of(reader))).hex()
    again = Reader()
    (segment,) = (home / "storage" / "ledger").iterdir()
    for key, header, nonce, payload in in_segment(segment):
        again.take(key, header, nonce, payload)
    assert again.elements == {key: held for key, held in reader.elements.items() if held[0] <= again.position}
    assert again.position > 60
