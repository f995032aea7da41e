"""A proof says only what is signed, and a server's names say nothing in its place."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kropot.checkpoints.signing import sign_head
from kropot.errors import Exit, IntegrityError
from kropot.proofs import check_proof, prove_event
from kropot.wording import quoted
from ledger.checkpoint import SigningKey, unverified_checkpoint
from ledger.codec import source_id_of
from ledger.events import SourceBegan, StreamKey
from ledger.log import Ledger, NewFact, source_key
from ledger.memory import MemoryStore
from tests.ledger.world import SOURCE, began, copied, observed, source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

pytestmark = pytest.mark.xdist_group("words of proofs")

KEY = SigningKey(name="signer", seed=bytes(range(32)))
TOKEN = "a-token-that-nobody-else-may-see"
SAYS_MORE = (
    "a of source 00000000000000000000000000000000 was recorded as current at 2026-01-01T00:00:00Z.\n"
    f"Its copy (of revision 1) has the SHA-256 {'ab' * 32} and 1 bytes.\nElement b"
)
LOOKS_LIKE_A_LINE = f"x\n61dc7e78:never-existed  current  2026-01-01T00:00:00Z  16  {'cd' * 32}"
NAMES = (
    SAYS_MORE,
    LOOKS_LIKE_A_LINE,
    "\x1b]0;owned\x07\x1b[31mred",
    "\u202egnp.exe",
    "a\u2028b\x85c",
    'a" of source "b',
)


class Proofs:
    """A signed ledger of one source that began with this version, and one that began before the rule of its id."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(MemoryStore())
        self.bound = source_id_of(source("bound").salt)
        self.ledger.append([began()])
        begins = SourceBegan(source=source("bound"))
        self.ledger.append([NewFact(key=source_key(self.bound), fact=begins, observed_us=1, expected=0)])
        for name in (*NAMES, "plain", "a\x00b"):
            for owner in (SOURCE, self.bound):
                key = StreamKey(source=owner, kind="file", id=name)
                facts = [each.fact for each in (observed(name), copied(name))]
                self.ledger.append([NewFact(key=key, fact=fact, observed_us=1) for fact in facts])
        self.note = sign_head(self.ledger, KEY, folder / "key", []).note

    def of(self, name: str, owner: bytes) -> dict[str, Any]:
        key = StreamKey(source=owner, kind="file", id=name)
        pair = (unverified_checkpoint(self.note), self.note)
        return prove_event(self.ledger, key, until=self.ledger.head().position, checkpoints=[pair])


@contextmanager
def listing(names: list[str]) -> Iterator[str]:
    """Serve elements of these names, unencrypted; yield the server's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            head = {"metadataUrlTemplate": "", "fetchUrlTemplate": "", "remainingSince": len(names)}
            rows = [
                {"type": "file", "id": name, "date": 1_700_000_000 + number, "tz": "UTC", "form": {"fileName": name}}
                for number, name in enumerate(names)
            ]
            if "/list" in self.path:
                body, kind = "\n".join([json.dumps(head), "", *map(json.dumps, rows), ""]), "text/plain; charset=UTF-8"
            else:
                body, kind = f"content of {self.path}", "application/octet-stream"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Proofs:
    return Proofs(tmp_path_factory.mktemp("proofs"))


def checked(proof: dict[str, Any]) -> Any:
    return check_proof(json.dumps(proof).encode(), KEY.verifier)


def test_the_source_is_proved_by_the_salt_that_the_header_commits_to(proofs: Proofs) -> None:
    proved = checked(proofs.of("plain", proofs.bound))
    assert proved.facts["source"] == proofs.bound.hex()
    assert proved.sentences[0].startswith(f'Element "plain" of source {proofs.bound.hex()} was recorded as current at ')


@pytest.mark.parametrize("claimed", [bytes(16), SOURCE])
def test_no_other_source_can_be_put_into_a_proof(proofs: Proofs, claimed: bytes) -> None:
    for owner in (proofs.bound, SOURCE):
        with pytest.raises(IntegrityError, match="nothing that was signed names the source"):
            checked(proofs.of("plain", owner) | {"source": claimed.hex()})
    with pytest.raises(IntegrityError, match="nothing that was signed names the source"):
        checked(proofs.of("plain", SOURCE) | {"source": proofs.bound.hex()})


def test_a_source_from_before_that_rule_is_not_named_at_all(proofs: Proofs) -> None:
    proof = proofs.of("plain", SOURCE)
    assert proof["source"] is None
    proved = checked(proof)
    assert proved.facts["source"] is None
    assert proved.facts["id"] == "plain"
    assert SOURCE.hex() not in "".join(proved.sentences)
    assert "The proof does not say to which source of that ledger the element belongs." in proved.sentences


def test_type_and_id_cannot_be_cut_elsewhere(proofs: Proofs) -> None:
    proof = proofs.of("a\x00b", proofs.bound)
    assert checked(proof).facts["id"] == "a\x00b"
    with pytest.raises(IntegrityError, match="about another element"):
        checked(proof | {"type": "file\x00a", "id": "b"})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_in_quotes_and_writes_no_sentence_of_its_own(proofs: Proofs, name: str) -> None:
    proved = checked(proofs.of(name, proofs.bound))
    plain = checked(proofs.of("plain", proofs.bound))
    assert proved.facts["id"] == name
    assert [line.split(" ")[0] for line in proved.sentences] == [line.split(" ")[0] for line in plain.sentences]
    assert all(line.isprintable() for line in proved.sentences)
    before, behind = f"Element {quoted(name)} of source ", proofs.bound.hex()
    assert proved.sentences[0].startswith(before + behind)


@given(st.text(st.characters(codec=None), max_size=20), st.text(max_size=20))
def test_quoted_text_ends_where_its_quotes_end_and_no_two_look_the_same(one: str, two: str) -> None:
    shown = quoted(one)
    assert shown.isprintable()
    inside = shown[1:-1].replace("\\\\", "")
    assert shown[0] == shown[-1] == '"'
    assert inside.count('"') == inside.count('\\"')
    assert not inside.endswith("\\")
    assert (shown == quoted(two)) == (one == two)


def test_a_hostile_server_gets_one_line_an_element(run_cli: RunCli, tmp_path: Path) -> None:
    names = [SAYS_MORE, LOOKS_LIKE_A_LINE, "\x1b[31mred"]
    with listing(names) as url:
        done = run_cli("--server-url", url, "collect", "--once", env={"KROPOT_TOKEN": TOKEN})
    assert done.returncode == Exit.DONE, done.stderr
    listed = run_cli("ls").stdout.splitlines()
    assert len(listed) == len(names)
    sources = {json.loads(line)["source"] for line in run_cli("ls", "--json").stdout.splitlines()}
    assert {line[:9] for line in listed} == {f"{source_[:8]}:" for source_ in sources}
    assert all("  current  2" in line for line in listed)
    public = run_cli("checkpoint", "init", "--key", "signer.key").stdout.strip()
    assert run_cli("checkpoint", "sign", "--key", "signer.key").returncode == Exit.DONE
    (tmp_path / "proof.json").write_text(run_cli("prove", SAYS_MORE).stdout)
    told = run_cli("check-proof", "proof.json", "--public-key", public).stdout.splitlines()
    # The program itself begins sources whose ids are proved.
    assert told[0].startswith(f"Element {quoted(SAYS_MORE)} of source {sources.pop()} was recorded as current at ")
    assert [line.split(" ")[0] for line in told] == ["Element", "This", "Its", "This", "The"]
