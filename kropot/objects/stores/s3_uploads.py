"""Ends uploads in parts that were cut: obstore cannot list them, so these few requests are signed here (SigV4).

Source: AWS, "Signature Version 4 signing process". Nothing here may fail what it is done beside.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

from kropot.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kropot.objects.stores.address import BucketAddress
    from kropot.objects.stores.s3_settings import BucketAccess

OLD_S = 86_400
_TIMEOUT_S = 60
_MOST_ANSWER = 4 << 20
_OK = frozenset({200, 204})


@dataclass(frozen=True, slots=True, kw_only=True)
class CutUpload:
    """An upload in parts that was not completed: its whole key, its id, and when it began (seconds since 1970)."""

    key: str
    id: str
    began_s: float


class BucketUploads:
    """The unfinished uploads in parts below a prefix."""

    def __init__(self, address: BucketAddress, access: BucketAccess) -> None:
        """Ask nothing yet."""
        self._address = address
        self._access = access

    @property
    def is_able(self) -> bool:
        """Whether the keys are at hand; those of a machine of AWS are known to obstore alone."""
        return self._access.key_id is not None and self._access.secret is not None

    def abort(self, key: str) -> int:
        """Abort the uploads of one whole key; return how many."""
        return self._abort(lambda found: found.key == key, key)

    def abort_old(self, older_than_s: float = OLD_S) -> int:
        """Abort the uploads below the prefix that began longer ago, a day if nothing else is said; return how many."""
        before = time.time() - older_than_s
        prefix = self._address.prefix
        return self._abort(lambda found: found.began_s < before, f"{prefix}/" if prefix else "")

    def _abort(self, wanted: Callable[[CutUpload], bool], prefix: str) -> int:
        if not self.is_able:
            return 0
        import requests

        done = 0
        try:
            for found in list(filter(wanted, self._listed(prefix))):
                done += self._request("DELETE", found.key, {"uploadId": found.id})[0] in _OK
        except (requests.RequestException, ET.ParseError, ValueError) as error:
            log.debug("uploads_not_aborted", bucket=self._address.bucket, reason=type(error).__name__)
        return done

    def _listed(self, prefix: str) -> Iterator[CutUpload]:
        markers: dict[str, str] = {}
        while True:
            status, body = self._request("GET", "", {"uploads": "", "prefix": prefix, **markers})
            if status not in _OK:
                return
            root = ET.fromstring(body)  # noqa: S314 -- expat expands no entities from outside, and the answer is bounded
            for one in root.iterfind("{*}Upload"):
                began = datetime.fromisoformat(one.findtext("{*}Initiated") or "")
                key, number = one.findtext("{*}Key") or "", one.findtext("{*}UploadId") or ""
                if key.startswith(prefix) and number:
                    yield CutUpload(key=key, id=number, began_s=began.timestamp())
            after = root.findtext("{*}NextKeyMarker") or ""
            if (root.findtext("{*}IsTruncated") or "").lower() != "true" or not after:
                return
            markers = {"key-marker": after, "upload-id-marker": root.findtext("{*}NextUploadIdMarker") or ""}

    def _request(self, method: str, key: str, query: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body. Raises: requests.RequestException."""
        import requests

        access = self._access
        base = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
        path = (
            f"/{quote(key)}" if access.is_virtual_hosted else f"/{self._address.bucket}{'/' if key else ''}{quote(key)}"
        )
        headers = signed_headers(method, base, path, query, access=access, now=datetime.now(UTC))
        with requests.request(
            method,
            f"{base}{path}?{_query(query)}",
            headers=headers,
            timeout=_TIMEOUT_S,
            verify=True if access.ca_file is None else str(access.ca_file),
            allow_redirects=False,
            stream=True,
        ) as answer:
            return answer.status_code, answer.raw.read(_MOST_ANSWER, decode_content=True)


def signed_headers(
    method: str,
    base: str,
    path: str,
    query: Mapping[str, str],
    *,
    access: BucketAccess,
    now: datetime,
    body: bytes = b"",
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a request, and `more` (their names in small letters), signed with SigV4."""
    if access.key_id is None or access.secret is None:
        raise ValueError("no keys to sign with")
    day, moment = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    content = hashlib.sha256(body).hexdigest()
    headers = {"host": urlsplit(base).netloc, "x-amz-content-sha256": content, "x-amz-date": moment, **(more or {})}
    if access.session is not None:
        headers["x-amz-security-token"] = access.session.reveal()
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    asked = "\n".join([method, path, _query(query), lines, names, content])
    scope = f"{day}/{access.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(asked.encode()).hexdigest()])
    key = f"AWS4{access.secret.reveal()}".encode()
    for part in (day, access.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    known = f"Credential={access.key_id.reveal()}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {
        **{name: value for name, value in headers.items() if name != "host"},
        "Authorization": f"AWS4-HMAC-SHA256 {known}",
    }


def _query(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
