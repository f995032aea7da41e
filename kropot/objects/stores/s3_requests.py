"""The few requests to a bucket that obstore does not support, signed here (SigV4).

Source: AWS, "Signature Version 4 signing process".
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kropot.objects.stores.address import BucketAddress
    from kropot.objects.stores.s3_settings import BucketAccess

_TIMEOUT_S = 60
_MOST_ANSWER = 4 << 20


class BucketRequests:
    """Sends requests to a bucket's server, with the given keys."""

    def __init__(self, address: BucketAddress, access: BucketAccess) -> None:
        """Ask nothing yet."""
        self._address = address
        self._access = access

    @property
    def is_able(self) -> bool:
        """Whether the keys are known here; those of an AWS machine are known only to obstore."""
        return self._access.key_id is not None and self._access.secret is not None

    def ask(
        self, method: str, key: str, query: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return the status, and at most 4 MiB of the body. `key` is the full key; "" is the bucket itself.

        `more` are headers with lowercase names. Raises: requests.RequestException.
        """
        import requests

        access = self._access
        base = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
        path = (
            f"/{quote(key)}" if access.is_virtual_hosted else f"/{self._address.bucket}{'/' if key else ''}{quote(key)}"
        )
        headers = signed_headers(method, base, path, query, access=access, now=datetime.now(UTC), more=more)
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
    """Return the headers of a request, with those of `more` (which have lowercase names), signed with SigV4."""
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
