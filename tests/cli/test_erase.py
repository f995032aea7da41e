"""`erase`: what a law wants gone is gone from every place that the program knows, and every proof stays whole."""

from __future__ import annotations

import io
import json
import random
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from kropot.collect.decide.actions import LookUp
from kropot.errors import Exit
from kropot.objects.directory import DirectoryObjects
from kropot.objects.opening import open_store as open_storage
from kropot.objects.packs.packing import PackRule
from kropot.retention import erasing
from kropot.retention.erasing import ERASER, Erasing
from kropot.retention.freeing import FreeingRun
from ledger.checkpoint import SigningKey
from ledger.erasing import erased_events
from ledger.errors import ConflictError
from ledger.log import Ledger
from ledger.merkle import Frontier
from ledger.sql import open_store
from ledger.transfer.segments import read
from tests.kropot.retention_world import HOUR, KilledError, RetentionWorld, sha

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunCli

SECRET = "bea's letter"
NAME = "bea.txt"


@dataclass
class Place:
    """A replica with an element to be erased: `bea.txt` had three versions, one of which `other.txt` has, too."""

    world: RetentionWorld
    folder: Path
    run_cli: RunCli

    @property
    def ledger(self) -> Ledger:
        return self.world.ledger

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        config = self.folder / "config.toml"
        config.write_text(
            f'db-string = "sqlite:///{self.folder / "ledger.db"}"\nstorage-path = "{self.folder / "storage"}"\n'
        )
        config.chmod(0o600)
        return self.run_cli("--config", str(config), *args)

    def json(self, *args: str, code: int = 0) -> Any:
        answer = self.run(*args, "--json")
        assert answer.returncode == code, answer.stderr
        return json.loads(answer.stdout)

    def erase(self, *args: str, code: int = 0) -> Any:
        return self.json("erase", NAME, "--reason", "request 17", "--wait", "0s", *args, code=code)

    def erasing(self) -> Erasing:
        storage = open_storage(self.folder / "storage", ERASER)
        key = self.world.key(NAME)
        return Erasing(ledger=self.ledger, storage=storage, key=key, reason="request 17", blocks=False)

    def vanish(self) -> None:
        self.world.listed({NAME: None})
        self.write_segments()

    def write_segments(self) -> None:
        open_storage(self.folder / "storage", "main").segments(writing=True).write(self.ledger)

    def pack(self) -> None:
        storage = open_storage(self.folder / "storage", "main")
        with storage.gatherer(self.ledger.places, PackRule(worth=0)) as gatherer:
            gatherer.run()

    def where(self, text: str) -> list[str]:
        """Return the files of the storage and the database that hold this text."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "config.toml"]
        return [path.name for path in files if text.encode() in path.read_bytes()]


@pytest.fixture
def place(tmp_path: Path, run_cli: RunCli) -> Iterator[Place]:
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)
    world = RetentionWorld(random.Random(1), store=store, clock_us=time.time_ns() // 1000 - 5 * HOUR)
    world.objects = DirectoryObjects(tmp_path / "storage", "main")  # type: ignore[assignment]
    world.effects = world._effects()
    made = Place(world, tmp_path, run_cli)
    for text in (SECRET, "shared", f"{SECRET}, again"):
        world.listed({NAME: text, "other.txt": "shared", "third.txt": "third"})
        world.clock_us += HOUR
    made.write_segments()
    yield made
    world.objects.close()
    store.close()


def gone(place: Place) -> None:
    """Demand that nothing of the element is left, and that everything else is sound."""
    for text in (SECRET, NAME):
        assert place.where(text) == []
    assert place.where("shared")
    answer = place.run("verify", "--no-record")
    assert answer.returncode == Exit.DONE, answer.stdout + answer.stderr


def test_an_element_that_vanished_is_gone_from_every_place(place: Place) -> None:
    place.vanish()
    assert set(place.where(SECRET)) == {sha(SECRET).hex(), sha(f"{SECRET}, again").hex()}
    assert len(place.where(NAME)) > 1  # the database and a segment
    root, head = place.ledger.head().frontier.root, place.ledger.head().position
    before = place.json("replay")["state_digest"]
    said = place.erase()
    assert said["done"]
    assert said["freed"] == {"objects": 2, "bytes": 2 * len(SECRET) + 7}
    assert said["shared"] == [sha("shared").hex()]
    assert (said["left"], said["payloads"], said["position"] > head) == ([], 7, True)
    gone(place)
    # Every statement from before still checks, though the element is not named any more.
    assert place.ledger.frontier_at(head).root == root
    assert place.json("replay", "--until", f"@{head}")["state_digest"] != before
    assert place.json("replay", "--until", f"@{head}", "--digest", before)["state_digest"] == before
    wrong = before[:-1] + ("0" if before[-1] != "0" else "1")
    assert place.run("replay", "--until", f"@{head}", "--digest", wrong).returncode == Exit.FINDINGS
    # It can be said again, and changes nothing.
    again = place.erase()
    assert (again["done"], again["position"], again["segments"]) == (True, said["position"], 0)


def test_segments_recover_a_ledger_without_what_was_erased(place: Place) -> None:
    place.vanish()
    place.erase()
    answer = place.run_cli(
        *("db", "recover", "--from-storage", "--storage-path", str(place.folder / "storage")),
        *("--db-string", f"sqlite:///{place.folder / 'again.db'}"),
    )
    assert answer.returncode == 0, answer.stderr
    gone(place)


def test_packs_are_rewritten(place: Place) -> None:
    place.vanish()
    place.pack()
    (pack,) = (path for path in (place.folder / "storage" / "packs").rglob("*") if path.is_file())
    assert place.where(SECRET) == [pack.name]
    said = place.erase()
    assert (said["packs"], said["freed"]["objects"]) == (1, 2)
    gone(place)


@pytest.mark.parametrize("is_packed", [False, True])
def test_further_storages_lose_it_too_and_all_of_them_must_be_there(place: Place, *, is_packed: bool) -> None:
    place.vanish()
    second, off = place.folder / "second", place.folder / "off"
    if is_packed:
        place.pack()
    assert place.run("storage", "catch-up", str(second)).returncode == 0
    assert len(place.where(SECRET)) == (2 if is_packed else 4)
    second.rename(off)
    head = place.ledger.head().position
    answer = place.run("erase", NAME, "--reason", "request 17", "--wait", "0s")
    assert answer.returncode == Exit.PARTIAL
    assert "is its disk mounted" in answer.stderr
    assert not any("PayloadErased" in str(type(event.fact)) for event in place.ledger.events(after=head))
    answer = place.run("erase", "--retry")
    assert answer.returncode == Exit.PARTIAL
    assert "cannot be read" in answer.stderr
    off.rename(second)
    assert place.erase()["done"]
    assert place.json("erase", "--retry")["versions"] == 0
    gone(place)
    answer = place.run("verify", "--no-record", "--also-store", "all")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert sha("shared").hex() in "".join(path.name for path in second.rglob("*")) or is_packed


def test_it_is_refused_while_the_source_lists_it(place: Place) -> None:
    head = place.ledger.head().position
    answer = place.run("erase", NAME, "--reason", "request 17")
    assert answer.returncode == Exit.USAGE
    assert "--even-if-present" in answer.stderr
    assert (place.ledger.head().position, len(place.where(SECRET))) == (head, 2)


def test_a_blocked_element_is_never_recorded_again(place: Place) -> None:
    assert place.erase("--even-if-present")["done"]
    gone(place)
    # A collector that knows of it looks it up as an element of which nothing is recorded; one that does not is refused.
    with pytest.raises(ConflictError):
        place.world.listed({NAME: "once more"})
    assert place.ledger.blocked.among([place.world.key(NAME), place.world.key("other.txt")]) == {place.world.key(NAME)}
    place.world.listed({"new.txt": "new"})
    listed: Any = [SimpleNamespace(type="file", id=name) for name in (NAME, "other.txt", "never.txt")]
    answer: Any = place.world.effects._look_up(LookUp(entries=tuple(listed)))
    assert {id_: entry.element is None for (_, id_), entry in answer.known.items()} == {NAME: True, "other.txt": False}


def test_an_element_that_was_erased_and_not_blocked_can_come_back_and_be_erased_again(place: Place) -> None:
    place.vanish()
    first = place.erase()["position"]
    place.world.listed({NAME: SECRET})
    place.vanish()
    assert place.erase()["position"] > first
    gone(place)


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("is_packed", [False, True])
def test_an_erasure_that_is_cut_short_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: int, *, is_packed: bool
) -> None:
    place.vanish()
    if is_packed:
        place.pack()
    steps = [
        (FreeingRun, "_batch"),
        (FreeingRun, "_repack"),
        (FreeingRun, "_end"),
        (erasing, "still_in"),
        (Erasing, "_segments"),
        (Ledger, "frontier_at"),
    ]
    owner, name = steps[step]

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KilledError):
            place.erasing().run()
    assert place.erase()["done"]
    gone(place)


def test_a_pack_that_cannot_be_rewritten_leaves_the_history_for_another_try(place: Place) -> None:
    place.vanish()
    place.pack()
    (pack,) = (path for path in (place.folder / "storage" / "packs").rglob("*") if path.is_file())
    whole = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(whole.replace(b"third", b"thirD"))
    said = place.erase(code=Exit.PARTIAL)
    assert (said["done"], said["position"], len(said["left"])) == (False, None, 2)
    pack.write_bytes(whole)
    assert place.erase()["done"]
    gone(place)


def test_the_key_signs_this_erasure_and_no_other(place: Place) -> None:
    key = place.folder / "signer.key"
    key.write_text(f"{SigningKey(name='signer', seed=bytes(range(32))).text}\n")
    key.chmod(0o600)
    place.vanish()
    assert place.erase("--checkpoint-key", str(key))["signed"]
    public = ("--public-key", SigningKey(name="signer", seed=bytes(range(32))).verifier.text)
    assert place.run("verify", "--no-record", *public).returncode == Exit.DONE
    place.world.listed({"other.txt": None})
    other = ("erase", "other.txt", "--reason", "r", "--wait", "0s")
    assert not place.json(*other)["signed"]
    place.world.listed({"third.txt": None})
    answer = place.run("erase", "third.txt", "--reason", "r", "--checkpoint-key", str(key))
    assert answer.returncode == 0
    assert "not signed: " in answer.stderr
    assert place.run("verify", "--no-record", *public).returncode == Exit.FINDINGS


def test_what_a_segment_holds_is_found_by_positions(place: Place) -> None:
    place.vanish()
    (path,) = (place.folder / "storage" / "ledger").iterdir()
    place.erase()
    positions = erased_events(place.ledger, place.ledger.erasures())
    (path,) = (place.folder / "storage" / "ledger").iterdir()
    events = list(read(io.BytesIO(path.read_bytes()), Frontier()))
    assert [event.seq for event, key in events if event.payload is None and key is None] == positions
