"""Buckets on SeaweedFS that keep versions, and may lock what is written, with requests of whoever attacks them."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import requests

from kropot.objects.stores.address import BucketAddress
from kropot.objects.stores.s3_requests import signed_headers
from kropot.objects.stores.s3_settings import BucketAccess
from kropot.secret import Secret
from tests.remote_stores import KEY_ID, SECRET

if TYPE_CHECKING:
    from kropot.objects.stores.s3 import BucketFiles
    from tests.remote_stores import BucketServer

_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
VERSIONING = f"<VersioningConfiguration {_NAMESPACE}><Status>Enabled</Status></VersioningConfiguration>"
RETENTION = (
    f"<ObjectLockConfiguration {_NAMESPACE}><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
    "<Mode>{mode}</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
)


@cache
def _bucket(endpoint: str, mode: str | None) -> str:
    """Make a bucket, once a server: SeaweedFS takes seconds for the first object in one. Return its name."""
    name = f"versions-{secrets.token_hex(4)}"
    lock = {} if mode is None else {"x-amz-bucket-object-lock-enabled": "true"}
    assert _ask(endpoint, "PUT", f"/{name}", {}, more=lock)[0] == 200
    what, body = ("versioning", VERSIONING) if mode is None else ("object-lock", RETENTION.format(mode=mode))
    assert _ask(endpoint, "PUT", f"/{name}", {what: ""}, body=body.encode())[0] == 200
    return name


def _ask(base: str, method: str, path: str, query: dict[str, str], **more: Any) -> tuple[int, str]:
    access = BucketAccess(endpoint=base, region="us-east-1", key_id=Secret(KEY_ID), secret=Secret(SECRET))
    headers = signed_headers(method, base, path, query, access=access, now=datetime.now(UTC), **more)
    answer = requests.request(
        method, base + path, params=query, headers=headers, data=more.get("body", b""), timeout=30
    )
    return answer.status_code, answer.text


class VersionedBucket:
    """A new prefix in a bucket that keeps versions; with a `mode`, each is locked for a day."""

    def __init__(self, server: BucketServer, mode: str | None = None) -> None:
        self.server = server
        self.name = _bucket(server.endpoint, mode)
        self.prefix = f"p{secrets.token_hex(4)}"

    @property
    def address(self) -> str:
        return str(BucketAddress(self.name, self.prefix))

    def files(self, **more: Any) -> BucketFiles:
        return self.server.files(self.prefix, bucket=self.name, **more)  # type: ignore[return-value]

    def ask(self, method: str, key: str, query: dict[str, str], **more: Any) -> tuple[int, str]:
        """Ask something about a key, or about the bucket if that is empty."""
        path = f"/{self.name}/{self.prefix}/{key}" if key else f"/{self.name}"
        return _ask(self.server.endpoint, method, path, query, **more)

    def versions(self, key: str = "") -> list[tuple[str, str]]:
        """Return what there is of a key: ("Version" or "DeleteMarker", id), the newest first."""
        listed = self.ask("GET", "", {"prefix": f"{self.prefix}/{key}", "versions": ""})[1]
        return re.findall(r"<(Version|DeleteMarker)>.*?<VersionId>(.*?)</VersionId>", listed, re.DOTALL)

    def holds(self, text: bytes, files: BucketFiles) -> list[str]:
        """Return the keys of which any version has these bytes."""
        whole = (version for version in files.versions("") if not version.is_marker)
        return [one.key for one in whole if text in files.get_version(one, 0, one.size)]
