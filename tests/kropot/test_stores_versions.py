"""A bucket that keeps versions: an attack is seen, read past and healed; erasing reaches every version; locks go on."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kropot import processes
from kropot.durable.errors import StorageError
from kropot.errors import Exit, LockedError, UsageError
from kropot.objects.packs.packing import PackRule
from kropot.objects.stores.locks import DAY_S, LockRule
from kropot.objects.stores.objects import object_key
from kropot.objects.stores.packs import pack_key
from kropot.objects.stores.renewing import Renewal
from kropot.objects.stores.s3 import BucketFiles
from kropot.objects.stores.s3_versions import BucketVersions
from kropot.objects.stores.storage import RemoteStorage
from kropot.objects.stores.versioned import VersionedStorage
from kropot.retention.erasing import ERASER, Erasing
from kropot.retention.freeing import FreeingRun, last_to_free
from kropot.retention.needed import needed_in
from kropot.retention.repacking import Repacking
from kropot.upkeep import RENEWING, RENEWING_US
from kropot.verify.run import Verification
from kropot.verify.scope import Scope
from ledger.sql import open_store
from tests.kropot.retention_world import HOUR, KilledError, RetentionWorld, rules, sha
from tests.remote_stores import READER_ID, BucketServer
from tests.versioned_bucket import VersionedBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kropot.objects.stores.files import RemoteFiles
    from ledger.stores import LedgerStore
    from tests.conftest import RunCli
    from tests.remote_stores import Servers

pytestmark = pytest.mark.xdist_group("stores")
SECRET = "bea's letter"
NAME = "bea.txt"
LARGE = "x" * 3000
"""It stays a file of its own."""


@dataclass
class Place:
    """A replica in a storage: `bea.txt` and `other.txt` lie in a pack, `large.txt` in a file of its own."""

    world: RetentionWorld
    files: Any
    locks: LockRule | None

    def storage(self, instance: str = "main", files: RemoteFiles | None = None) -> RemoteStorage:
        return RemoteStorage(self.files if files is None else files, instance, self.locks)

    def versioned(self, later_s: float = 0.0) -> VersionedStorage:
        return VersionedStorage(self.files, self.locks, clock=lambda: time.time() + later_s)

    def retry(self, later_s: float = 0.0, **more: bool) -> Any:
        return self.versioned(later_s).retry(needed_in(self.world.ledger), **more)

    def verify(self, *, repair: bool = False) -> list[tuple[str, str | None]]:
        objects = self.storage().objects(places=self.world.ledger.places)
        scope = Scope(repair=repair, storage=self.storage(), record=repair)
        found = list(Verification(self.world.ledger, objects, scope).findings())
        return [(each.kind, each.object) for each in found]

    def read(self) -> dict[str, bytes]:
        """Read everything as `restore` does."""
        objects = self.storage().reading().objects(places=self.world.ledger.places)
        found = {}
        for name, life in self.world.lives.items():
            assert life.now is not None
            with objects.open(sha(life.now)) as file:
                found[name] = file.read()
        return found

    def erasing(self, **more: Any) -> Erasing:
        storage = self.storage(ERASER, **more)
        key = self.world.key(NAME)
        return Erasing(ledger=self.world.ledger, storage=storage, key=key, reason="request 17", blocks=True)

    def everything(self) -> list[str]:
        return [stat.key for stat in self.files.walk("")]

    def pack(self) -> str:
        (name,) = self.storage().packs().names()
        return pack_key(name)


CONTENTS = {NAME: SECRET, "other.txt": "shared", "large.txt": LARGE}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Any, LockRule | None], Place]]:
    monkeypatch.setattr(processes, "_is_forbidden", False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    closing: list[Any] = []

    def make(files: Any, locks: LockRule | None = None, store: LedgerStore | None = None) -> Place:
        closing.append(files)
        world = RetentionWorld(random.Random(1), store=store, clock_us=time.time_ns() // 1000 - 5 * HOUR)
        place = Place(world, files, locks)
        world.objects = place.storage().objects(places=world.ledger.places)  # type: ignore[assignment]
        closing.append(world.objects)
        world.effects = world._effects()
        world.listed({**CONTENTS, NAME: f"{SECRET}, before"})
        world.clock_us += HOUR
        world.listed(CONTENTS)
        with place.storage().gatherer(world.ledger.places, PackRule(below=1000, worth=0)) as gatherer:
            gatherer.run()
        place.storage().segments(writing=True).write(world.ledger)
        return place

    yield make
    for each in reversed(closing):
        each.close()


@pytest.fixture
def seaweedfs(store_servers: Servers) -> BucketServer:
    server = store_servers.get("seaweedfs")
    assert isinstance(server, BucketServer)
    return server


# --- an attack -------------------------------------------------------------------------------------------------------


def garbage(size: int) -> bytes:
    return b"encrypted by somebody else".ljust(size, b"!")[:size]


@pytest.mark.parametrize("attack", ["remove", "overwrite", "both"])
def test_what_an_attacker_removes_or_overwrites_is_told_read_and_put_again(
    made: Any, seaweedfs: BucketServer, attack: str
) -> None:
    place = made(VersionedBucket(seaweedfs).files())
    pack = place.pack()
    assert [kind for kind, _ in place.verify()] == []
    for at, stat in enumerate(list(place.files.walk(""))):
        if attack == "remove" or (attack == "both" and at % 2):
            place.files.remove(stat.key)
        else:
            place.files.put(stat.key, garbage(stat.size))
    found = place.verify()
    wanted = {sha(text).hex() for text in (SECRET, f"{SECRET}, before", "shared", LARGE)}
    assert {object_ for kind, object_ in found if kind == "older_version"} == wanted
    assert {kind for kind, _ in found} <= {"older_version", "lost_pack", "damaged_pack"}
    # Nothing was healed by looking, and whoever restores has everything, the history too.
    assert place.read() == {name: text.encode() for name, text in CONTENTS.items()}
    events = list(place.storage().reading().segments().events())
    assert len(events) == place.world.ledger.head().position

    repaired = place.verify(repair=True)
    assert {object_ for kind, object_ in repaired if kind == "repaired_copy"} == wanted
    assert place.verify() == []
    assert place.pack() == pack
    assert place.world.ledger.entries([place.world.key(NAME)])[place.world.key(NAME)].element.damage is None


def test_a_file_that_is_written_over_again_and_again_costs_a_bounded_number_of_looks(
    made: Any, seaweedfs: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(VersionedBucket(seaweedfs).files())
    key = object_key(sha(LARGE))
    for number in range(1, 21):
        place.files.put(key, garbage(len(LARGE) - number))
    looks: list[str] = []
    real = BucketFiles.fetch_version
    monkeypatch.setattr(
        BucketFiles, "fetch_version", lambda self, version, into: (looks.append(version.key), real(self, version, into))
    )
    assert place.read()["large.txt"] == LARGE.encode()
    assert looks == [key] * 2  # the newest, and the first that ever was
    spoilt = object_key(sha("never"))
    for number in range(20):
        place.files.put(spoilt, garbage(100 + number))
    looks.clear()
    assert place.files.older().get(spoilt) == garbage(119)
    assert len(looks) == 16


@pytest.mark.parametrize("refused", ["are_kept", "listed"])
def test_keys_that_may_not_ask_for_versions_read_what_there_is_and_erase_nothing(
    made: Any, seaweedfs: BucketServer, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    place = made(VersionedBucket(seaweedfs).files())

    def refuse(*_: object) -> None:
        raise StorageError("the store refuses this (AccessDenied)")

    monkeypatch.setattr(BucketVersions, refused, refuse)
    assert place.read() == {name: text.encode() for name, text in CONTENTS.items()}
    head = place.world.ledger.head().position
    with pytest.raises(UsageError, match="nothing was erased: the store refuses this"):
        place.erasing().run()
    assert place.world.ledger.head().position == head


def test_keys_that_may_only_read_restore_without_versions(made: Any, seaweedfs: BucketServer) -> None:
    bucket = VersionedBucket(seaweedfs)
    place = made(bucket.files())
    reader = bucket.files(key_id=READER_ID)
    objects = place.storage(files=reader).reading().objects()
    with objects.open(sha(LARGE)) as file:
        assert file.read() == LARGE.encode()
    objects.close()
    reader.close()


# --- erasing ---------------------------------------------------------------------------------------------------------


def demand_erased(place: Place) -> None:
    """Demand that no version of anything has a trace of the element, and that everything else is sound."""
    ledger = place.world.ledger
    assert not list(ledger.history(place.world.key(NAME)))
    assert [kind for kind, _ in place.verify() if kind != "erased"] == []
    for stat in place.files.walk(""):
        assert SECRET.encode() not in place.files.get(stat.key)
        assert NAME.encode() not in place.files.get(stat.key)


@pytest.mark.parametrize("kind", ["sftp", "rclone", "seaweedfs"])
def test_an_element_is_erased_where_no_versions_are_kept(made: Any, store_servers: Servers, kind: str) -> None:
    place = made(store_servers.get(kind).files(f"erase-{time.time_ns()}"))
    (pack,) = place.storage().packs().names()
    with place.storage().rewriter() as rewriter:
        assert rewriter.put_away(pack)
        found = {each for each, _ in place.verify()}
        rewriter.bring_back(pack)
    assert found == {"freed_pack", "lost_object"}
    done = place.erasing().run()
    assert (done.is_done, done.packs, done.versions, done.waiting.versions) == (True, 1, 0, 0)
    demand_erased(place)
    assert not [key for key in place.everything() if key.startswith(("tmp/", "freed/"))]


@pytest.mark.parametrize("mode", [None, "GOVERNANCE"])
def test_every_version_is_erased_where_the_store_allows_it(
    made: Any, seaweedfs: BucketServer, mode: str | None
) -> None:
    bucket = VersionedBucket(seaweedfs, mode)
    place = made(bucket.files(), None if mode is None else LockRule(1))
    # Another run wrote the pack again, and a partial segment was replaced.
    place.files.put(place.pack(), place.files.get(place.pack()))
    place.world.listed({"new.txt": "new"})
    place.storage().segments(writing=True).write(place.world.ledger)
    assert bucket.holds(SECRET.encode(), place.files)
    done = place.erasing().run()
    assert (done.is_done, done.waiting.versions) == (True, 0)
    assert done.versions >= 6  # two loose ones, two of the pack, two of the history
    demand_erased(place)
    for text in (SECRET, NAME):
        assert bucket.holds(text.encode(), place.files) == []
    assert bucket.holds(b"shared", place.files)
    again = place.erasing().run()
    assert (again.is_done, again.versions, again.position) == (True, 0, done.position)


def test_what_is_locked_waits_and_is_never_the_newest_again(made: Any, seaweedfs: BucketServer) -> None:
    bucket = VersionedBucket(seaweedfs, "COMPLIANCE")
    place = made(bucket.files(), LockRule(1))
    done = place.erasing().run()
    assert done.is_done
    assert done.waiting.versions >= 4
    assert 0 < done.waiting.until_s - time.time() <= DAY_S
    demand_erased(place)
    assert place.versioned().waiting() == done.waiting
    # A try before the end changes nothing, and writes nothing either.
    before = bucket.versions()
    assert place.retry().waiting == done.waiting
    assert place.retry(even_if_locked=True) == (0, done.waiting)
    assert bucket.versions() == before
    assert place.erasing().run().is_done
    assert place.versioned().waiting() == done.waiting
    share = place.versioned().share(everything=True)
    assert (share.days, share.bucket_days, share.locked, share.waiting) == (1, 1, share.bytes, done.waiting)
    assert place.versioned(2 * DAY_S).share(everything=True).locked == 0


def test_what_waited_is_removed_when_it_can_be(made: Any, seaweedfs: BucketServer) -> None:
    bucket = VersionedBucket(seaweedfs)
    place = made(bucket.files())
    real = place.files.remove_version
    until_s = time.time() + DAY_S
    place.files.remove_version = lambda _: until_s
    done = place.erasing().run()
    assert done.waiting.versions >= 4
    assert bucket.holds(SECRET.encode(), place.files)
    place.files.remove_version = real
    assert place.retry() == (0, done.waiting)
    assert place.retry(DAY_S + 1) == (done.waiting.versions, (0, 0.0))
    assert bucket.holds(SECRET.encode(), place.files) == []
    assert not list(place.files.walk("erasing"))
    demand_erased(place)


def test_a_planted_note_removes_nothing_that_the_ledger_needs(made: Any, seaweedfs: BucketServer) -> None:
    place = made(VersionedBucket(seaweedfs).files())
    keys = place.everything()
    rows = [[one.key, one.id, False, 0.0] for one in place.files.versions("")]
    loose = object_key(sha(SECRET))  # it was gathered into the pack, so this is nothing but an older version
    assert loose in {row[0] for row in rows} - set(keys)
    for key in keys:
        place.files.put(key, b"garbage") if key.startswith("ledger/") else place.files.remove(key)
    place.files.put("erasing/planted", json.dumps({"versions": rows}).encode())
    assert place.retry(even_if_locked=True).removed == 0
    assert place.read() == {name: text.encode() for name, text in CONTENTS.items()}
    assert list(place.storage().reading().segments().events())
    place.verify(repair=True)
    assert place.verify() == []


def test_nothing_is_erased_with_keys_that_may_not_remove_versions(made: Any, seaweedfs: BucketServer) -> None:
    bucket = VersionedBucket(seaweedfs)
    place = made(bucket.files())
    reader = bucket.files(key_id=READER_ID)
    head, before = place.world.ledger.head().position, bucket.versions()
    with pytest.raises(UsageError, match=r"^nothing was erased: the bucket .* allow them s3:DeleteObjectVersion"):
        place.erasing(files=reader).run()
    reader.close()
    assert (place.world.ledger.head().position, bucket.versions()) == (head, before)


def test_a_pack_that_a_killed_run_removed_is_put_again_by_repair_and_then_erased(
    made: Any, seaweedfs: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = VersionedBucket(seaweedfs)
    place = made(bucket.files())

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(type(place.world.ledger.places), "forget", killed)
        with pytest.raises(KilledError):
            place.erasing().run()
    # Nothing is moved to `freed/` here, so nobody can tell it from an attack.
    assert "lost_pack" in {kind for kind, _ in place.verify()}
    with pytest.raises(StorageError, match="verify --repair"):
        place.erasing().run()
    assert "repaired_copy" in {kind for kind, _ in place.verify(repair=True)}
    assert place.erasing().run().is_done
    demand_erased(place)
    assert bucket.holds(SECRET.encode(), place.files) == []


def test_nobody_erases_while_a_collector_puts_files_again(made: Any, seaweedfs: BucketServer) -> None:
    place = made(VersionedBucket(seaweedfs).files())
    other = place.world.ledger
    assert other.work.reserve(RENEWING, lease_us=RENEWING_US)
    other.work.id, mine = b"another session!", other.work.id
    with pytest.raises(LockedError, match="is renewing files"):
        place.erasing().run()
    other.work.id = mine


def test_a_pack_that_somebody_removed_is_put_again_before_anything_in_it_is_erased(
    made: Any, seaweedfs: BucketServer
) -> None:
    bucket = VersionedBucket(seaweedfs)
    place = made(bucket.files())
    place.files.remove(place.pack())
    with pytest.raises(StorageError, match="verify --repair"):
        place.erasing().run()
    assert list(place.world.ledger.history(place.world.key(NAME)))
    place.verify(repair=True)
    assert place.erasing().run().is_done
    demand_erased(place)


def test_the_commands_say_what_is_locked_and_what_waits(
    made: Any, seaweedfs: BucketServer, run_cli: RunCli, tmp_path: Path
) -> None:
    bucket = VersionedBucket(seaweedfs, "COMPLIANCE")
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}", create=True)
    made(bucket.files(), LockRule(1), store)
    store.close()
    config = tmp_path / "config.toml"
    config.write_text(
        f'db-string = "sqlite:///{tmp_path / "ledger.db"}"\nstorage-path = "{bucket.address}"\n'
        "[storage]\nlock-days = 2\n"
    )
    config.chmod(0o600)
    env = {**seaweedfs.env(), "XDG_STATE_HOME": str(tmp_path / "state")}

    def run(*args: str, code: int) -> Any:
        answer = run_cli("--config", str(config), *args, env=env)
        assert answer.returncode == code, answer.stdout + answer.stderr
        return json.loads(answer.stdout) if "--json" in args else answer.stdout

    erased = run("erase", NAME, "--reason", "17", "--even-if-present", "--wait", "0s", "--json", code=Exit.PARTIAL)
    assert (erased["done"], erased["waiting"]["versions"] >= 4) == (True, True)
    assert run("erase", "--retry", "--json", code=Exit.PARTIAL)["waiting"] == erased["waiting"]
    locks = run("status", "--json", code=Exit.DONE)["locks"]
    assert (locks["lock_days"], locks["bucket_days"], locks["share"]) == (2, 1, 1.0)
    assert locks["erasures_waiting"] == erased["waiting"]
    shown = run("status", code=Exit.DONE)
    assert "locked   100.0% of " in shown
    assert "the bucket locks for 1 day, and lock-days is 2 in the table [storage]: correct one of them" in shown
    assert " of what was erased wait to be removed, until " in shown


def test_a_pack_that_a_killed_prune_removed_is_told_as_lost_until_repair(
    made: Any, seaweedfs: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(VersionedBucket(seaweedfs).files())
    ledger, world = place.world.ledger, place.world
    world.set_policy(rules(last=1, min_age_s=0, vanished_s=0))
    world.clock_us += HOUR
    world.listed({})
    assert world.release().total[0] == 1

    def prune() -> int:
        with place.storage().rewriter() as rewriter:
            until = last_to_free(ledger, before_us=world.clock_us, covered=None)
            repacking = Repacking(
                ledger=ledger, packs=rewriter, allowed=lambda: None, until=until, max_unused=-1, now_us=1 << 60
            )
            freeing = place.storage().objects(places=ledger.places).freeing()  # type: ignore[attr-defined]
            run = FreeingRun(ledger=ledger, objects=freeing, allowed=lambda: None, repacking=repacking)
            return run.released(until).objects

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(type(ledger.places), "forget", killed)
        with pytest.raises(KilledError):
            prune()
    # Nothing is moved to `freed/` here, so nobody can tell it from an attack.
    assert [kind for kind, _ in place.verify()] == ["lost_pack"]
    assert prune() == 0
    assert [kind for kind, _ in place.verify()] == ["lost_pack"]
    assert [kind for kind, _ in place.verify(repair=True)] == ["lost_pack", "repaired_pack"]
    assert place.verify() == []
    assert place.read() == {name: text.encode() for name, text in CONTENTS.items()}


# --- locks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "margin_days"), [(1, 0.5), (2, 1), (4, 1), (8, 2), (30, 7.5), (365, 91.25)])
def test_a_file_is_renewed_in_the_last_quarter_and_a_pack_rewritten_in_the_last_half(
    days: int, margin_days: float
) -> None:
    rule = LockRule(days)
    assert rule.margin_s == margin_days * DAY_S
    end = days * DAY_S
    assert rule.is_locked(0, end - 1)
    assert not rule.is_locked(0, end)
    assert rule.is_due(0, end - rule.margin_s)
    assert not rule.is_due(0, end - rule.margin_s - 1)
    assert rule.is_spared(0, end / 2 - 1)
    assert not rule.is_spared(0, end / 2)


class Clocks:
    """A clock for locks, and one for the time that rounds take."""

    def __init__(self) -> None:
        self.later_s = 0.0
        self.spent_s = 0.0
        self.a_look_s = 0.0

    def now(self) -> float:
        return time.time() + self.later_s

    def monotonic(self) -> float:
        self.spent_s += self.a_look_s
        return self.spent_s

    def renewal(self, files: Any, days: int) -> Renewal:
        return Renewal(files, LockRule(days), clock=self.now, monotonic=self.monotonic, round_s=10)


def test_files_are_put_again_before_their_locks_end_but_for_what_is_spoilt_or_gone(
    made: Any, seaweedfs: BucketServer
) -> None:
    bucket = VersionedBucket(seaweedfs)
    place = made(bucket.files())
    place.files.put(object_key(sha("spoilt")), b"garbage")
    clocks = Clocks()
    renewal = clocks.renewal(place.files, 4)
    keys = place.everything()
    before = {key: len(bucket.versions(key)) for key in keys}
    done = renewal.round()
    assert (done.files, done.is_whole) == (0, True)
    clocks.later_s = 3.1 * DAY_S
    assert not renewal.round().is_whole  # it has looked at everything a moment ago
    clocks.spent_s += 6 * 3600
    done = renewal.round()
    assert (done.files, done.unsound, done.is_whole) == (len(keys) - 1, 1, True)
    after = {key: len(bucket.versions(key)) for key in keys}
    spoilt = object_key(sha("spoilt"))
    assert after == {key: count + (key != spoilt) for key, count in before.items()}
    assert place.everything() == keys  # what was removed stays so
    assert [kind for kind, _ in place.verify()] == ["orphan_object"]


def test_rounds_that_are_cut_go_on_where_they_were(made: Any, seaweedfs: BucketServer) -> None:
    bucket = VersionedBucket(seaweedfs)
    files: BucketFiles = bucket.files()
    place = made(files)
    clocks = Clocks()
    clocks.later_s, clocks.a_look_s = 4 * DAY_S, 20
    renewal = clocks.renewal(place.files, 4)
    rounds = [renewal.round() for _ in place.everything()]
    assert [done.files for done in rounds] == [1] * len(rounds)
    assert renewal.round().is_whole


def test_a_pack_that_is_locked_for_long_is_not_rewritten_and_counts_as_locked(
    made: Any, seaweedfs: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(VersionedBucket(seaweedfs).files(), LockRule(4))
    ledger, pack = place.world.ledger, place.pack()
    unneeded = sha(f"{SECRET}, before")
    real = Repacking._unneeded
    monkeypatch.setattr(Repacking, "_unneeded", lambda self, wanted, **more: real(self, wanted, **more) | {unneeded})

    def free(later_s: float) -> tuple[int, int]:
        with place.storage().rewriter() as rewriter:
            repacking = Repacking(
                ledger=ledger,
                packs=rewriter,
                allowed=lambda: None,
                until=0,
                max_unused=-1,
                now_us=int((time.time() + later_s) * 1_000_000),
                orphans_us=0,
            )
            objects = place.storage().objects(places=ledger.places)
            freeing = objects.freeing()  # type: ignore[attr-defined]
            run = FreeingRun(ledger=ledger, objects=freeing, allowed=lambda: None, repacking=repacking, every_pack=True)
            found = run.orphans([])
            objects.close()
        return found.objects, found.locked

    assert free(0) == (0, len(SECRET) + len(", before"))
    assert place.pack() == pack
    assert free(2.5 * DAY_S) == (1, len(SECRET) + len(", before"))
    assert place.pack() != pack
    assert not list(place.files.walk("freed"))
    assert place.read() == {name: text.encode() for name, text in CONTENTS.items()}
