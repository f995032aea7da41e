"""The keeper's API: who may ask what, and that its answers are those of the commands on the keeper's machine."""

from __future__ import annotations

import hashlib
import io
import json
import time
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from kropot.cli.main import cli
from kropot.keeper import sending
from kropot.keeper.app import Keeper
from kropot.keeper.openapi import document
from kropot.keeper.operations import OPERATIONS
from kropot.keeper.visitor import Role
from kropot.proofs.check import check_proof
from ledger.checkpoint import Checkpoint, SigningKey, origin_of, sign_checkpoint
from ledger.merkle import verify_consistency
from tests.keeper.serve import Kept, Visiting
from tests.kropot.sc2_world import drawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("keeper's interface")

SIGNER = SigningKey.generate("keeper", lambda size: drawn("signer", size))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Two sources, one with an element that changed and one that vanished, and a checkpoint."""
    with Kept(tmp_path_factory.mktemp("kept")) as kept:
        world = kept.world
        one, other = world.source(None, url="https://one.example"), world.source(None, url="https://two.example")
        for number in range(4):
            world.tick()
            world.seal(one, b"docs/file %d" % number, b"content %d" % number)
        world.listed(one)
        world.tick(3600)
        world.seal(one, b"docs/file 0", b"new content")
        world.vanish(world.seal(one, b"gone", b"gone"))
        world.seal(other, b"of another", b"x" * 70_000)
        world.listed(other)
        head = world.ledger.head()
        origin = origin_of(world.ledger.identity().ledger_id)
        note = sign_checkpoint(Checkpoint(origin=origin, size=head.position, root=head.frontier.root), SIGNER)
        world.ledger.blobs.save_checkpoint(head.position, note.decode())
        yield kept


def sources_of(kept: Kept) -> list[bytes]:
    return list(kept.world.ledger.sources())


def run(kept: Kept, *args: str) -> list[Any]:
    """Run a command on the keeper's machine; return its lines of JSON."""
    out = io.StringIO()
    ledger = f"sqlite:///{kept.folder / 'ledger.db'}"
    with redirect_stdout(out), pytest.raises(SystemExit):
        cli.main(["--db-string", ledger, "--storage-path", str(kept.folder / "storage"), "--json", *args])
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    for row in rows:
        row.pop("message_type", None)
    return rows


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_without_a_token_nothing_is_there(kept: Kept) -> None:
    wrong = (None, "", "Bearer", "Bearer x", "Basic eDp4", "Bearer " + "a" * 3000, "Bearer ' OR 1=1 --")
    for path in ("/nothing", "/pages", *(each.path for each in OPERATIONS if each.name != "healthz")):
        for header in wrong if path == "/api/1/status" else wrong[:2]:
            headers = {} if header is None else {"Authorization": header}
            answer = Visiting(kept.url).get(path, headers=headers)
            assert answer.status_code == 401, (path, header)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["http_code"] == 401


def test_health_is_open_and_says_nothing(kept: Kept) -> None:
    answer = Visiting(kept.url).get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_do_what_the_table_says(kept: Kept, role: Role) -> None:
    visitor = kept.visitor(str(role))
    example = {"source": "0" * 32, "type": "file", "element": "x", "sha256": "0" * 64}
    for operation in OPERATIONS:
        status = visitor.get(operation.path.format(**example)).status_code
        may = list(Role).index(role) >= list(Role).index(operation.role)
        assert status == (403 if not may else 404 if "{" in operation.path else 200), operation.name
    assert visitor.get("/nothing").status_code == 404


def test_two_headers_of_one_kind_and_tokens_elsewhere_let_nobody_in(kept: Kept) -> None:
    token = kept.visitor().token
    assert Visiting(kept.url).get(f"/api/1/me?_token={token}").status_code == 401
    assert Visiting(kept.url).get("/api/1/me", headers={"token": token or ""}).status_code == 401
    assert Visiting(kept.url).get("/api/1/me", headers={"Authorization": f"bearer   {token} "}).status_code == 200


def test_revoked_and_expired_tokens_are_refused_at_once(kept: Kept) -> None:
    made = kept.tokens.make(Role.OWNER)
    visitor = Visiting(kept.url, made.text)
    assert visitor.get("/api/1/me").status_code == 200
    kept.tokens.revoke(made.row.number)
    assert visitor.get("/api/1/me").status_code == 401
    assert Visiting(kept.url, kept.tokens.make(Role.OWNER, expires_s=1).text).get("/api/1/me").status_code == 401


def test_a_bound_owner_sees_only_his_sources(kept: Kept) -> None:
    one, other = sources_of(kept)
    visitor = kept.visitor("owner", other)
    assert visitor.json("/api/1/me")["sources"] == [other.hex()]
    assert [row["source"] for row in visitor.json("/api/1/sources")["sources"]] == [other.hex()]
    assert [row["source"] for row in visitor.json("/api/1/status")["sources"]] == [other.hex()]
    assert one.hex()[:8] not in visitor.get("/metrics").text
    assert {row["source"] for row in visitor.json("/api/1/elements")["elements"]} == {other.hex()}
    assert visitor.get(f"/api/1/elements?source={one.hex()}").status_code == 404
    assert {row["source"] for row in visitor.json("/api/1/difference", **{"from": "@0"})["differences"]} == {
        other.hex()
    }
    assert {row["source"] for row in visitor.json("/api/1/restore-points")["points"]} == {other.hex()}
    assert set(visitor.json("/api/1/tree")["salts"]) == {other.hex()}
    for row in kept.visitor().json("/api/1/elements")["elements"]:
        expected = 200 if row["source"] == other.hex() else 404
        assert visitor.get(f"/api/1/objects/{row['sha256']}").status_code == expected
        place = f"{row['source']}/file/{row['id']}"
        for path in (f"elements/{place}", f"elements/{place}/history", f"proofs/{place}"):
            assert visitor.get(f"/api/1/{path}").status_code == expected, path


# --- what is answered ------------------------------------------------------------------------------------------------


def test_pages_at_any_moment_are_what_replay_lists(kept: Kept) -> None:
    visitor = kept.visitor()
    for until in ("@0", "@4", "@9", None):
        expected = run(kept, "replay", "--list", *(() if until is None else ("--until", until)))
        rows: list[Any] = []
        after = None
        for _ in range(20):
            page = visitor.json("/api/1/elements", limit=2, after=after, until=until)
            assert len(page["elements"]) <= 2
            rows += page["elements"]
            after = page["next"]
            if after is None:
                break
        assert rows == expected
    gone = visitor.json("/api/1/elements", state="vanished")["elements"]
    assert [row["state"] for row in gone] == ["vanished"]
    since = visitor.json("/api/1/elements", since=10)["elements"]
    assert since == [row for row in run(kept, "replay", "--list") if row["position"] > 10]


def test_every_form_of_until_is_taken(kept: Kept) -> None:
    visitor, head = kept.visitor(), kept.world.ledger.head()
    note = next(iter(kept.world.ledger.blobs.checkpoints()))[1]
    for until in ("2100-01-01", "2100-01-01T10:00:00+02:00", "2100-01-01T10:00", f"@{head.position}", note):
        found = visitor.json("/api/1/moment", until=until)
        assert (found["position"], found["root"]) == (head.position, head.frontier.root.hex())
    assert visitor.json("/api/1/moment", until="9000w")["position"] == 0
    for wrong in ("x", "", "@-1", "/etc/passwd", "keeper.db"):
        answer = visitor.get("/api/1/moment", params={"until": wrong})
        assert (answer.status_code, answer.json()["http_code"]) == (400, 400)
    forged = note.replace("\n".join(note.splitlines()[2:3]), "A" * 43 + "=")
    assert visitor.get("/api/1/moment", params={"until": forged}).status_code == 409


def test_difference_and_history_are_what_the_commands_print(kept: Kept) -> None:
    visitor = kept.visitor()
    found = visitor.json("/api/1/difference", **{"from": "@9", "to": "@14"})
    assert found["differences"] == run(kept, "replay", "--until", "@9", "--diff", "@14")
    pages, after = [], None
    while True:
        page = visitor.json("/api/1/difference", **{"from": "@0"}, limit=1, after=after)
        pages += page["differences"]
        after = page["next"]
        if after is None:
            break
    assert pages == run(kept, "replay", "--until", "@0", "--diff", "2100-01-01")
    row = found["differences"][0]
    place = f"/api/1/elements/{row['source']}/file/{row['id']}/history"
    assert visitor.json(place)["events"] == run(kept, "history", row["id"])
    first = visitor.json(place, limit=1)
    assert first["next"] == first["events"][0]["version"]
    assert visitor.json(place, after=first["next"])["events"] == run(kept, "history", row["id"])[1:]


def test_status_and_what_is_cut_from_it(kept: Kept) -> None:
    visitor = kept.visitor("auditor")
    status = visitor.json("/api/1/status")
    local = run(kept, "status")[0]
    for row in (*status["sources"], *local["sources"]):
        row.pop("lag_s")
    assert status["sources"] == local["sources"]
    assert status["storage"] == local["storage"] | {
        name: status["storage"][name] for name in status["storage"] if "free" in name
    }
    assert visitor.json("/api/1/alarms") == {"healthy": status["healthy"], "alarms": status["alarms"]}
    assert visitor.json("/api/1/coverage")["never_read"] == 1
    space = visitor.json("/api/1/space")
    assert space["states"]["current"]["elements"] == 5
    assert sum(each["states"]["current"]["bytes"] for each in space["sources"]) == space["states"]["current"]["bytes"]
    points, after = [], None
    while True:
        page = visitor.json("/api/1/restore-points", limit=1, after=after)
        points += page["points"]
        after = page["next"]
        if after is None:
            break
    assert points == run(kept, "log")
    assert len(points) == 2
    metrics = kept.visitor("monitor").get("/metrics").text
    assert f"kropot_ledger_events {kept.world.ledger.head().position}\n" in metrics


def test_proofs_check_out_with_the_public_key_alone(kept: Kept) -> None:
    visitor, ledger = kept.visitor("auditor"), kept.world.ledger
    row = kept.visitor().json("/api/1/elements", limit=1)["elements"][0]
    proof = visitor.json(f"/api/1/proofs/{row['source']}/file/{row['id']}")
    assert check_proof(json.dumps(proof).encode(), SIGNER.verifier).sentences
    size = ledger.head().position
    grown = visitor.json("/api/1/consistency", old=5)
    path = [bytes.fromhex(node) for node in grown["path"]]
    assert verify_consistency(5, size, ledger.frontier_at(5).root, ledger.head().frontier.root, path)
    signed = visitor.json("/api/1/consistency", old=size, new=size, signed="true")
    assert check_proof(json.dumps(signed).encode(), SIGNER.verifier).sentences
    assert visitor.get("/api/1/consistency?old=5&signed=true").status_code == 404
    assert visitor.get("/api/1/consistency?old=9&new=5").status_code == 400
    assert visitor.get("/api/1/consistency?new=1000000").status_code == 400
    assert visitor.json("/api/1/checkpoints")["checkpoints"][0]["size"] == size


def test_headers_are_those_of_the_events_and_no_payload(kept: Kept) -> None:
    visitor = kept.visitor("auditor")
    events = list(kept.world.ledger.stored())
    headers, at = [], 0
    while True:
        page = list(msgpack.Unpacker(io.BytesIO(visitor.get(f"/api/1/headers?after={at}&limit=4").content)))
        if not page:
            break
        headers += page
        at += len(page)
    assert headers == [event.header for event in events]
    assert "first" not in visitor.json("/api/1/tree")


def test_objects_come_whole_and_in_ranges(kept: Kept) -> None:
    visitor = kept.visitor()
    row = max(visitor.json("/api/1/elements")["elements"], key=lambda each: each["size"] or 0)
    path, size = f"/api/1/objects/{row['sha256']}", row["size"]
    whole = visitor.get(path)
    assert hashlib.sha256(whole.content).hexdigest() == row["sha256"]
    assert whole.headers["content-disposition"] == "attachment"
    assert whole.headers["x-content-type-options"] == "nosniff"
    for asked, start, stop in (
        ("bytes=10-19", 10, 20),
        ("bytes=10-", 10, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=0-{size + 99}", 0, size),
    ):
        part = visitor.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole.content[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for odd in ("bytes=1-2,5-6", "bytes=9-2", "lines=1-2", "bytes=x"):
        assert visitor.get(path, headers={"Range": odd}).content == whole.content
    beyond = visitor.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_for_a_client_that_hung_up_nothing_more_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(64 << 20)
    reads: list[int] = []
    honest = sending._read_at

    def counted(file: Any, at: int, size: int) -> bytes:
        reads.append(at)
        return honest(file, at, size)

    monkeypatch.setattr(sending, "_read_at", counted)
    with Kept(tmp_path) as kept:
        kept.world.put(kept.world.source(None), "big", data)
        answer = kept.visitor().get(f"/api/1/objects/{hashlib.sha256(data).hexdigest()}", stream=True)
        assert answer.raw.read(10)
        answer.close()
        for _ in range(200):
            before = len(reads)
            time.sleep(0.05)
            if len(reads) == before:
                break
    assert 0 < len(reads) < len(data) // sending.CHUNK


def test_what_is_not_understood_is_refused(kept: Kept) -> None:
    visitor = kept.visitor()
    for query in (
        "limit=0", "limit=1001", "limit=x", "limit=-1", "limit=1&limit=2", "nothing=1", "events=yes", "state=x",
        "since=-1", "after=x", "after=00/file/1", "until=%00",
    ):  # fmt: skip
        answer = visitor.get(f"/api/1/elements?{query}")
        assert (answer.status_code, answer.json()["http_code"]) == (400, 400), query
    assert visitor.get("/api/1/elements/x/file/y").status_code == 404
    assert visitor.get("/api/1/elements/").status_code == 404


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_document_names_every_route_and_the_server_has_every_one(kept: Kept) -> None:
    served = kept.visitor("monitor").json("/api/1/openapi.json")
    assert served == json.loads(json.dumps(document()))
    app: Any = kept.server.service.app
    assert isinstance(app, Keeper)
    routes = {route.path for route in app._rest.routes} | {"/healthz"}
    assert routes == set(served["paths"]) == {each.path for each in OPERATIONS}
