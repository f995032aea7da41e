"""Every parser of what others wrote: the bytes it is given, the errors that it may raise, and examples it takes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from click import BadParameter

from kropot.cli.settings import read_config, resolve
from kropot.cli.sizes import SIZE, SPAN
from kropot.durable.target import TargetFolder
from kropot.errors import IntegrityError, KropotError, UsageError
from kropot.gateway.accepts import names_media_type
from kropot.gateway.commands import command_from
from kropot.gateway.listing import parse_limit, parse_since
from kropot.gateway.marks import mark_from
from kropot.gateway.patterns import PathPatterns
from kropot.gateway.ranges import wanted_span
from kropot.gateway.selection import patterns_of
from kropot.gateway.tokenspec import SpecError, parse_spec
from kropot.objects.packs.format import (
    FOOTER,
    PackDamagedError,
    footer_of,
    index_of,
    lay_out,
    name_of,
    parse_footer,
    parse_index,
)
from kropot.proofs.check import check_proof
from kropot.query.names import readings
from kropot.replay.marks import decode, encode
from kropot.replay.snapshots import SLOT, _expand
from kropot.replay.state import ReplicaState
from kropot.replay.until import parse_note, parse_when
from kropot.restore.claims import BadFormError, parse_form, read_claim
from kropot.restore.journal import Journal
from kropot.restore.kits import read_kit
from kropot.restore.patterns import Patterns
from kropot.restore.read_export import ExportedCopies
from kropot.sc2.kits import parse_kit
from kropot.sc2.layout import MEDIA_TYPE
from kropot.sc2.paper import from_paper, to_paper
from kropot.sc2.refused import RefusedError
from kropot.securecopy.content import TailCheck, UnbelievableError, read_content_head
from kropot.securecopy.sealing import BadSealError, Kit, open_form, open_stream, seal_form
from kropot.securecopy.wire import BadPageError, Listed, encode_entry, encode_page, parse_page, parse_submitdata
from ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.codec import decode_header, encode_payload, read_payload
from ledger.digest import SetDigest
from ledger.errors import BadCheckpointError, LedgerError, MalformedEventError, MalformedSegmentError
from ledger.events import Unserved
from ledger.log import Ledger
from ledger.memory import MemoryStore
from ledger.merkle import Frontier
from ledger.note import SigningKey, VerifierKey
from ledger.sql.dialects import parse_place
from ledger.transfer import segments
from tests.faults import sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIT = Kit("a passphrase of the fuzzer", method="aes-256-cbc", digest="sha256", rounds=1)
SIGNER = SigningKey(name="fuzz", seed=bytes(range(32)))
NOW_US = 1_790_000_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser: `parse` is given any bytes, and either returns or raises one of `errors`."""

    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    examples: Callable[[], list[bytes]] = list


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Give a parser of text what a shell or a header can hold: any bytes, the undecodable escaped."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def _lines(data: bytes) -> list[str]:
    return data.decode("latin-1").split("\n")


# --- what servers say ------------------------------------------------------------------------------------------------


def _page() -> list[bytes]:
    form = json.dumps({"encrypted": seal_form(b"{}", KIT, bytes(16))}, separators=(",", ":")).encode()
    entry = Listed(type="file", id="a" * 128, date=1_795_414_108, tz="UTC", form=form, size=16, etag='"e"')
    unserved = Unserved(sockets=1, pipes=0, devices=0, links=2, unreadable=0, unsettled=0, excluded=3)
    said = {"closed": 9, "unserved": unserved, "unscanned_since": 8}
    return [encode_page([encode_entry(entry)] * 2, remaining=2, metadata_url="m", fetch_url="f", **said)]  # type: ignore[arg-type]


def _submitdata() -> list[bytes]:
    line = _page()[0].split(b"\n")[2]
    return [b'{"status":"OK","http_code":200,"object":' + line + b"}", line]


def _head(data: bytes) -> object:
    pairs = [line.partition(":") for line in _lines(data)]
    headers = [(name, value.strip()) for name, _, value in pairs]
    for opaque, resumed_at in ((None, 0), (True, 0), (False, 16)):
        try:
            read_content_head(206 if resumed_at else 200, headers, opaque=opaque, resumed_at=resumed_at)
        except UnbelievableError:
            continue
    return None


def _tail(data: bytes) -> None:
    check = TailCheck()
    check.update(data)
    check.finish(opaque=True)


_HEAD = b"content-type: application/octet-stream\nencryption-initialization-vector: " + b"0f" * 16
_HEADS = [
    _HEAD + b'\ncontent-length: 4112\netag: "x"',
    _HEAD + b"\ncontent-length: 32\ncontent-range: bytes 16-47/48",
]

# --- what holds the ledger -------------------------------------------------------------------------------------------


@cache
def _ledger() -> Ledger:
    from tests.ledger.world import began, observed

    ledger = Ledger(MemoryStore(), writer="fuzz", clock=lambda: NOW_US, entropy=lambda size: bytes(range(size)))
    ledger.append([began(), observed(1), observed(2, size=7)])
    return ledger


def _segment() -> list[bytes]:
    ledger = _ledger()
    return [b"".join(segments.encode(ledger.identity().ledger_id, ledger.log, Frontier()))]


def _payload(data: bytes) -> None:
    from tests.ledger.facts import SAMPLES

    for fact in SAMPLES.values():
        try:
            read_payload(fact.TYPE, fact.VERSION, 0, data)
        except MalformedEventError:
            continue


def _payloads() -> list[bytes]:
    from tests.ledger.facts import SAMPLES

    return [encode_payload(fact) for fact in SAMPLES.values()]


def _read_segment(data: bytes) -> None:
    try:
        segments.reach_of(io.BytesIO(data))
    finally:
        list(segments.read(io.BytesIO(data), Frontier()))


def _frontier(data: bytes) -> None:
    Frontier.parse(int.from_bytes(data[:8], "big"), data[8:])


def _checkpoint() -> list[bytes]:
    return [sign_checkpoint(Checkpoint(origin="fuzz", size=3, root=bytes(32)), SIGNER)]


def _proofs() -> list[bytes]:
    from kropot.proofs.make import prove_consistency

    ledger = _ledger()
    notes = []
    for size in (2, ledger.head().position):
        root = ledger.frontier_at(size).root
        held = Checkpoint(origin="fuzz", size=size, root=root)
        notes.append((held, sign_checkpoint(held, SIGNER)))
    return [json.dumps(prove_consistency(ledger, notes[0], notes[1])).encode()]


# --- what users keep -------------------------------------------------------------------------------------------------


_SPEC = {
    "roles": ["securecopy.stream"],
    "expires": "2030-05-01 01:06:01",
    "data": {
        "tags": ["a.tag"],
        "maxAllowedFileSize": 7,
        "secureCopyEncryptionKey": "a longer pass phrase",
        "secureCopyEncryptionMethod": "aes-256-cbc",
        "secureCopyDigestMethod": "sha512",
        "secureCopyDigestRounds": 6000,
        "secureCopyDigestSalt": "salt",
    },
}
_SC2_SPEC = {**_SPEC, "data": {"secureCopyEncryptionMethod": "sc2", "padding": "padme"}}


def _spec(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    parse_spec(value, now_s=NOW_US // 10**6, rounds_of_made_keys=1)


@contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kropot-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def _config(data: bytes) -> None:
    with _file("config.toml", data) as path:
        resolve({}, {}, read_config(path))


def _journal(data: bytes) -> None:
    with _file("journal", data) as path, TargetFolder(path.parent) as tree, Journal(tree, b"journal") as journal:
        journal.wrote((b"x",), bytes(32), path.stat(), bytes(32), {})


def _pack(data: bytes) -> None:
    """Read a pack's footer and index as if it were named after them; whatever it says, its ranges fill its objects."""
    length = int.from_bytes(data[-FOOTER.size + 8 : -32], "big")
    index = data[-FOOTER.size - length : -FOOTER.size] if length < len(data) else b""
    name = name_of(index)
    footer = parse_footer(data[-FOOTER.size : -32] + name, len(data), name)
    entries = parse_index(index, footer, name)
    assert sum(entry.length for entry in entries) == footer.data_end
    assert all(entry.offset + entry.length <= footer.data_end for entry in entries)


def _packs() -> list[bytes]:
    made = []
    for contents in ([b"one"], [b"", b"two", b"three" * 9]):
        index = index_of(lay_out([(hashlib.sha256(each).digest(), len(each)) for each in contents]))
        made.append(b"".join(contents) + index + footer_of(index))
    return made


def _manifest(data: bytes) -> None:
    with _file("manifest.jsonl", data) as path:
        copies = ExportedCopies(path.parent)
        try:
            list(copies.helds())
        finally:
            copies.close()


_JOURNAL = (
    json.dumps({"file": "a/b", "file_size": 1, "file_mtime_ns": 2, "identity": "00" * 32, "sha256": "00" * 32}).encode()
    + b"\n"
)
_MANIFEST = {
    "file": "ab/cd/x",
    "source": "00" * 16,
    "type": "file",
    "id": "x",
    "date": 1,
    "tz": "UTC",
    "state": "current",
    "sha256": "00" * 32,
    "size": 16,
    "iv": "00" * 16,
    "is_older": False,
    "form": {"fileName": "x"},
}
_CLAIM = {"fileName": "x", "path": base64.b64encode(b"a/x").decode(), "mtime_ns": 1, "mode": 420, "sha256": "00" * 32}


def _marks() -> list[bytes]:
    state = ReplicaState(digest=SetDigest({bytes(16): bytes(range(256)) * 8}))
    return [encode(ReplicaState()), encode(state)]


def _chunks() -> list[bytes]:
    import zlib

    return [bytes([4]) + zlib.compress(bytes(4 * SLOT))]


def _amounts(text: str) -> None:
    for amount in (SIZE, SPAN):
        try:
            amount.convert(text, None, None)
        except BadParameter:
            continue


def _range(text: str) -> None:
    wanted_span(text, '"e"', etag='"e"', size=1000)


def _accept(data: bytes) -> None:
    names_media_type([(b"accept", data)], MEDIA_TYPE)


def _excluded(data: bytes) -> None:
    """Read a file of patterns, and ask about a path that it can say something about."""
    found = PathPatterns(patterns_of(data, "a file", {"HOME": "/a"}))
    states = found.start
    for name in (*["a"] * 20, "b.o", "[", "\\", "é"):
        states = found.advance(states, name)
    found.match(states)


TARGETS: dict[str, Target] = {
    "exclude file": Target(
        parse=_excluded,
        errors=(UsageError,),
        examples=lambda: [b"# c\n*.o\n!/a/**/b[^a-z\\]]?\n$HOME/x\n", b"\xff\xfea\x00*\x00", b"**/" * 9 + b"*a*b*"],
    ),
    "mark of a folder": Target(
        parse=_text(mark_from), errors=(UsageError,), examples=lambda: [b"CACHEDIR.TAG:Signature: 8a47", b".nobackup"]
    ),
    "scan command": Target(
        parse=_text(lambda text: command_from(text, "--before-scan", {"PATH": "/bin"})),
        errors=(UsageError,),
        examples=lambda: [b"sh -c 'a | b' \"c\" \\;"],
    ),
    "list page": Target(
        parse=lambda data: parse_page(200, "text/plain; charset=UTF-8", data), errors=(BadPageError,), examples=_page
    ),
    "submitdata": Target(
        parse=lambda data: parse_submitdata(200, "application/json", data),
        errors=(BadPageError,),
        examples=_submitdata,
    ),
    "content head": Target(parse=_head, errors=(), examples=lambda: _HEADS),
    "content tail": Target(
        parse=_tail, errors=(UnbelievableError,), examples=lambda: [b"x" * 16 + b"<!DOCTYPE html><html></html>"]
    ),
    "form envelope": Target(
        parse=_text(lambda text: open_form(text, KIT)),
        errors=(BadSealError,),
        examples=lambda: [seal_form(b"{}", KIT, bytes(16)).encode()],
    ),
    "content": Target(
        parse=lambda data: list(open_stream([data[:7], data[7:]], bytes(16), bytes(16))), errors=(BadSealError,)
    ),
    "form": Target(
        parse=lambda data: (parse_form(data), read_claim(data, element_id="x")),
        errors=(BadFormError,),
        examples=lambda: [json.dumps(_CLAIM).encode()],
    ),
    "event header": Target(
        parse=decode_header,
        errors=(MalformedEventError,),
        examples=lambda: [event.header for event in _ledger().stored()],
    ),
    "event payload": Target(parse=_payload, errors=(), examples=_payloads),
    "frontier": Target(parse=_frontier, errors=(ValueError,), examples=lambda: [(3).to_bytes(8, "big") + bytes(64)]),
    "segment": Target(parse=_read_segment, errors=(MalformedSegmentError,), examples=_segment),
    "pack": Target(parse=_pack, errors=(PackDamagedError,), examples=_packs),
    "checkpoint": Target(
        parse=lambda data: (parse_note(data, name="a file"), open_checkpoint(data, SIGNER.verifier)),
        errors=(UsageError, IntegrityError, BadCheckpointError),
        examples=_checkpoint,
    ),
    "verifier key": Target(
        parse=_text(VerifierKey.parse),
        errors=(BadCheckpointError,),
        examples=lambda: [SIGNER.verifier.text.encode()],
    ),
    "signing key": Target(
        parse=_text(SigningKey.parse), errors=(BadCheckpointError,), examples=lambda: [SIGNER.text.encode()]
    ),
    "proof": Target(parse=lambda data: check_proof(data, SIGNER.verifier), errors=(IntegrityError,), examples=_proofs),
    "key kit": Target(
        parse=lambda data: read_kit(data, name="a file"),
        errors=(UsageError,),
        examples=lambda: [json.dumps(_SPEC).encode()],
    ),
    "sc2 object": Target(parse=sealed.read_object, errors=(RefusedError,), examples=sealed.objects),
    "sc2 form": Target(parse=sealed.read_form, errors=(), examples=sealed.forms),
    "sc2 list form": Target(parse=_text(sealed.read_list_form), errors=(RefusedError,), examples=sealed.list_forms),
    "sc2 attributes": Target(parse=sealed.read_attributes, errors=(RefusedError,), examples=sealed.attributes),
    "sc2 kit": Target(parse=lambda data: parse_kit(data, name="a file"), errors=(UsageError,), examples=sealed.kits),
    "kit on paper": Target(
        parse=_text(from_paper), errors=(UsageError,), examples=lambda: [to_paper(sealed.kits()[0]).encode()]
    ),
    "token request": Target(
        parse=_spec, errors=(SpecError,), examples=lambda: [json.dumps(each).encode() for each in (_SPEC, _SC2_SPEC)]
    ),
    "accept": Target(parse=_accept, errors=(), examples=lambda: [b"text/html;q=0.5, application/vnd.kropot.sc2;q=1"]),
    "birth of a version": Target(parse=sealed.read_birth, errors=(), examples=sealed.births),
    "--until": Target(
        parse=_text(lambda text: parse_when(text, now_us=NOW_US, read=lambda _: None)),
        errors=(UsageError, IntegrityError),
        examples=lambda: [b"2026-05-01", b"2026-05-01T10:00:00.5+02:00", b"36h", b"@120411", b"2w"],
    ),
    "configuration file": Target(
        parse=_config,
        errors=(UsageError,),
        examples=lambda: [b'refresh-time = 300\nlog-level = "info"\n[collect]\nonce = true\n'],
    ),
    "database URL": Target(
        parse=_text(parse_place), errors=(LedgerError,), examples=lambda: [b"sqlite:///x.db", b"postgresql://u:p@h:5/d"]
    ),
    "journal": Target(parse=_journal, errors=(KropotError,), examples=lambda: [_JOURNAL * 3]),
    "export manifest": Target(
        parse=_manifest, errors=(UsageError,), examples=lambda: [json.dumps(_MANIFEST).encode() + b"\n"]
    ),
    "snapshot chunk": Target(parse=lambda data: _expand(data[1:], data[0] if data else 0), errors=(), examples=_chunks),
    "mark": Target(parse=lambda data: decode(data, 1), errors=(), examples=_marks),
    "pattern": Target(
        parse=_text(lambda text: Patterns([text])), errors=(UsageError,), examples=lambda: [b"docs/**", b"*.[a-z]"]
    ),
    "element name": Target(
        parse=_text(lambda text: readings({bytes(16): "web"}, text)), errors=(UsageError,), examples=lambda: [b"00:x"]
    ),
    "amount": Target(parse=_text(_amounts), errors=(), examples=lambda: [b"1GiB", b"90s", b"1.5 d"]),
    "limit": Target(parse=_text(parse_limit), errors=(UsageError,), examples=lambda: [b"256", b"3abc"]),
    "since": Target(parse=_text(parse_since), errors=(UsageError,), examples=lambda: [b"2026-05-01 10:00:00", b"@15"]),
    "range": Target(parse=_text(_range), errors=(), examples=lambda: [b"bytes=1-7", b"bytes=-7", b"bytes=7-"]),
}
"""By name. A parser with no errors of its own answers whatever it is given."""
