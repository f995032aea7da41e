"""Abort interrupted multipart uploads, which obstore cannot list. A failure here must not make the caller fail."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from msgspec import Struct

from kropot.logs import log
from kropot.objects.stores.s3_requests import BucketRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.stores.address import BucketAddress
    from kropot.objects.stores.s3_settings import BucketAccess

OLD_S = 86_400
_OK = frozenset({200, 204})


class CutUpload(Struct, frozen=True, kw_only=True):
    """A multipart upload that was not completed: its full key, its id, and when it began (seconds since 1970)."""

    key: str
    id: str
    began_s: float


class BucketUploads:
    """The unfinished multipart uploads below a prefix."""

    def __init__(self, address: BucketAddress, access: BucketAccess) -> None:
        """Ask nothing yet."""
        self._address = address
        self._requests = BucketRequests(address, access)

    def abort(self, key: str) -> int:
        """Abort the uploads of one full key; return how many."""
        return self._abort(lambda found: found.key == key, key)

    def abort_old(self, older_than_s: float = OLD_S) -> int:
        """Abort the uploads below the prefix that began longer ago than this, a day by default; return how many."""
        before = time.time() - older_than_s
        prefix = self._address.prefix
        return self._abort(lambda found: found.began_s < before, f"{prefix}/" if prefix else "")

    def _abort(self, wanted: Callable[[CutUpload], bool], prefix: str) -> int:
        if not self._requests.is_able:
            return 0
        import requests

        done = 0
        try:
            for found in list(filter(wanted, self._listed(prefix))):
                done += self._requests.ask("DELETE", found.key, {"uploadId": found.id})[0] in _OK
        except (requests.RequestException, ET.ParseError, ValueError) as error:
            log.debug("uploads_not_aborted", bucket=self._address.bucket, reason=type(error).__name__)
        return done

    def _listed(self, prefix: str) -> Iterator[CutUpload]:
        markers: dict[str, str] = {}
        while True:
            status, body = self._requests.ask("GET", "", {"uploads": "", "prefix": prefix, **markers})
            if status not in _OK:
                return
            root = ET.fromstring(body)  # noqa: S314 -- expat expands no external entities, and the answer is bounded
            for one in root.iterfind("{*}Upload"):
                began = datetime.fromisoformat(one.findtext("{*}Initiated") or "")
                key, number = one.findtext("{*}Key") or "", one.findtext("{*}UploadId") or ""
                if key.startswith(prefix) and number:
                    yield CutUpload(key=key, id=number, began_s=began.timestamp())
            after = root.findtext("{*}NextKeyMarker") or ""
            if (root.findtext("{*}IsTruncated") or "").lower() != "true" or not after:
                return
            markers = {"key-marker": after, "upload-id-marker": root.findtext("{*}NextUploadIdMarker") or ""}
