"""A bucket with Object Lock: what SeaweedFS really enforces, and that everything works there that works elsewhere.

A removal leaves a marker, and the older version stays until its retention ends. In the mode GOVERNANCE, whoever has the
right removes it sooner; in COMPLIANCE nobody does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from kropot import processes
from kropot.objects.instance import InstanceLock
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published
from kropot.objects.stores.files import VersionedFiles
from kropot.objects.stores.objects import RemoteObjects, object_key
from tests.remote_stores import BucketServer
from tests.versioned_bucket import VersionedBucket

if TYPE_CHECKING:
    from pathlib import Path

    from tests.remote_stores import Servers

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture
def server(store_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> BucketServer:
    monkeypatch.setattr(processes, "_is_forbidden", False)
    server = store_servers.get("seaweedfs")
    assert isinstance(server, BucketServer)
    return server


@pytest.mark.parametrize(("mode", "by_right"), [("COMPLIANCE", 403), ("GOVERNANCE", 204)])
def test_seaweedfs_lets_only_the_right_to_bypass_end_a_lock_and_only_in_governance(
    server: BucketServer, mode: str, by_right: int
) -> None:
    bucket = VersionedBucket(server, mode)
    files = bucket.files()
    files.put("key", b"content")
    assert (files.keeps_versions(), files.locked_days()) == (True, 1)
    ((_, version),) = bucket.versions("key")
    assert bucket.ask("DELETE", "key", {"versionId": version})[0] == 403
    assert f"<Mode>{mode}</Mode>" in bucket.ask("GET", "key", {"retention": "", "versionId": version})[1]
    files.remove("key")
    # A marker is not locked: whoever removes it has the file back.
    assert [kind for kind, _ in bucket.versions("key")] == ["DeleteMarker", "Version"]
    assert files.remove_version(next(iter(files.versions("key")))) is None
    assert files.get("key") == b"content"
    (found,) = files.versions("key")
    until_s = files.remove_version(found)
    if by_right == 403:
        assert until_s is not None
        assert 86_000 < until_s - time.time() <= 86_400
    else:
        assert (until_s, list(files.versions("key"))) == (None, [])
    files.close()


def test_a_bucket_without_versions_says_so(server: BucketServer, store_servers: Servers) -> None:
    for kind in (server, store_servers.get("rclone")):
        files = kind.files("plain")
        assert isinstance(files, VersionedFiles)
        assert (files.keeps_versions(), files.locked_days(), files.can.versions) == (False, None, True)
        files.demand_removable()
        files.close()


def test_seaweedfs_locks_what_is_written_and_this_store_works_in_it(server: BucketServer, tmp_path: Path) -> None:
    bucket = VersionedBucket(server, "COMPLIANCE")
    files = bucket.files()
    store = RemoteObjects(files, "one", lock=InstanceLock(str(tmp_path), "one"), pack=PackRule(below=0))
    contents = [b"small", bytes(20 << 20)]  # in one request, and in parts
    batch = []
    for content in contents:
        upload = store.stage()
        upload.write(content)
        batch.append(upload.finish())
    published = [one for one in store.publish(batch) if isinstance(one, Published)]
    assert len(published) == 2

    for one in published:
        key = object_key(one.sha256)
        ((kind, version),) = bucket.versions(key)
        assert kind == "Version"
        assert bucket.ask("DELETE", key, {"versionId": version})[0] == 403
        # A removal leaves a marker and frees nothing.
        store.freeing().put_away([one.sha256])
        store.freeing().destroy([one.sha256])
        assert store.size(one.sha256) is None
        assert [each[0] for each in bucket.versions(key)] == ["DeleteMarker", "Version"]
        assert bucket.ask("GET", key, {"versionId": version})[0] == 200

    # The same object again is a new version, and is read.
    upload = store.stage()
    upload.write(b"small")
    (again,) = store.publish([upload.finish()])
    assert isinstance(again, Published)
    with store.open(again.sha256) as file:
        assert file.read() == b"small"
    assert len(bucket.versions(object_key(again.sha256))) == 3
    store.set_aside(again.sha256)
    assert [left.kind for left in store.leftovers()] == ["quarantined"]
    store.close()
