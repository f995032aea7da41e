"""A bucket with Object Lock: what SeaweedFS really enforces, and that everything works there that works elsewhere.

Nothing here knows of locks yet: a removal leaves a marker, and the older version stays until its retention ends.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import requests

from kropot import processes
from kropot.objects.instance import InstanceLock
from kropot.objects.packs.packing import PackRule
from kropot.objects.store import Published
from kropot.objects.stores.objects import RemoteObjects, object_key
from kropot.objects.stores.s3_requests import signed_headers
from kropot.objects.stores.s3_settings import BucketAccess
from kropot.secret import Secret
from tests.remote_stores import KEY_ID, SECRET, BucketServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.remote_stores import Servers

pytestmark = pytest.mark.xdist_group("stores")
RETENTION = (
    b'<ObjectLockConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ObjectLockEnabled>Enabled'
    b"</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule>"
    b"</ObjectLockConfiguration>"
)


class LockedBucket:
    """A bucket whose objects are locked for a day, and requests that this program does not make itself."""

    def __init__(self, server: BucketServer) -> None:
        self.server = server
        self.name = f"locked-{secrets.token_hex(4)}"
        assert self.ask("PUT", "", more={"x-amz-bucket-object-lock-enabled": "true"})[0] == 200
        assert self.ask("PUT", "", {"object-lock": ""}, body=RETENTION)[0] == 200

    def ask(self, method: str, key: str, query: dict[str, str] | None = None, **more: Any) -> tuple[int, str]:
        base, path, query = self.server.endpoint, f"/{self.name}{'/' if key else ''}{key}", query or {}
        access = BucketAccess(endpoint=base, region="us-east-1", key_id=Secret(KEY_ID), secret=Secret(SECRET))
        headers = signed_headers(method, base, path, query, access=access, now=datetime.now(UTC), **more)
        answer = requests.request(
            method, base + path, params=query, headers=headers, data=more.get("body", b""), timeout=30
        )
        return answer.status_code, answer.text

    def versions(self, key: str) -> list[tuple[str, str]]:
        """Return what there is of a key: ("Version" or "DeleteMarker", id), the newest first."""
        listed = self.ask("GET", "", {"prefix": key, "versions": ""})[1]
        return re.findall(r"<(Version|DeleteMarker)>.*?<VersionId>(.*?)</VersionId>", listed, re.DOTALL)


@pytest.fixture
def bucket(store_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> LockedBucket:
    monkeypatch.setattr(processes, "_is_forbidden", False)
    server = store_servers.get("seaweedfs")
    assert isinstance(server, BucketServer)
    return LockedBucket(server)


def test_seaweedfs_locks_what_is_written_and_this_store_works_in_it(bucket: LockedBucket, tmp_path: Path) -> None:
    files = bucket.server.files("", bucket=bucket.name)  # type: ignore[call-arg]
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
        # Nobody ends a version before its time, whoever asks and however.
        for more in ({}, {"x-amz-bypass-governance-retention": "true"}):
            assert bucket.ask("DELETE", key, {"versionId": version}, more=more)[0] == 403
        until = bucket.ask("GET", key, {"retention": "", "versionId": version})
        assert "<Mode>COMPLIANCE</Mode>" in until[1]
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
