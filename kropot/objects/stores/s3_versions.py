"""Older versions of a bucket's files, and how long they are locked: requests that obstore does not support."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from kropot.durable.errors import StorageError
from kropot.objects.stores.files import RemoteVersion
from kropot.objects.stores.retry import PassingError
from kropot.objects.stores.s3_errors import bucket_error, code_in
from kropot.objects.stores.s3_requests import BucketRequests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.objects.stores.address import BucketAddress
    from kropot.objects.stores.retry import Retries
    from kropot.objects.stores.s3_settings import BucketAccess

_OK: Final = frozenset({200, 204})
_GONE, _REFUSED = 404, 403
_NO_VERSIONS: Final = frozenset({405, 501})
_NO_LOCKS: Final = frozenset({400, 404, 405, 501})
"""Answers of servers that do not support versions or locks."""

_NOBODY: Final = "kropotcli-asks-whether-it-may-remove-versions"
_YEAR_DAYS: Final = 365
_BYPASS: Final = {"x-amz-bypass-governance-retention": "true"}


class BucketVersions:
    """The versions below a prefix. Keys are relative to it."""

    def __init__(self, address: BucketAddress, access: BucketAccess, retries: Retries) -> None:
        """Ask nothing yet."""
        self._address = address
        self._requests = BucketRequests(address, access)
        self._retries = retries
        self._are_kept: bool | None = None

    @property
    def is_able(self) -> bool:
        """Whether the keys that sign these requests are known here."""
        return self._requests.is_able

    def are_kept(self) -> bool:
        """Ask once. A bucket whose versioning was suspended counts as one that keeps versions."""
        if self._are_kept is None:
            status, body = self._ask("asking whether it keeps versions", "GET", "", {"versioning": ""}, _NO_VERSIONS)
            self._are_kept = status in _OK and bool(_parsed(body).findtext("{*}Status"))
        return self._are_kept

    def listed(self, prefix: str, after: str) -> Iterator[RemoteVersion]:
        """List page by page, starting after the key `after`."""
        root = self._root
        markers = {"key-marker": root + after} if after else {}
        while True:
            query = {"versions": "", "prefix": root + prefix, **markers}
            page = _parsed(self._ask(f"listing the versions of {prefix}", "GET", "", query)[1])
            yield from filter(None, (self._version(one, prefix) for one in page))
            after = page.findtext("{*}NextKeyMarker") or ""
            if (page.findtext("{*}IsTruncated") or "").lower() != "true" or not after:
                return
            before, markers = markers, {"key-marker": after}
            if (version := page.findtext("{*}NextVersionIdMarker")) is not None:
                markers["version-id-marker"] = version
            if markers == before:
                return  # a server that gives the same page again would be asked forever

    def remove(self, version: RemoteVersion) -> float | None:
        """Remove it; only if that is refused, use the right to bypass a lock in GOVERNANCE mode."""
        doing, key, query = f"removing a version of {version.key}", self._root + version.key, {"versionId": version.id}
        for more in ({}, _BYPASS):
            status, _ = self._ask(doing, "DELETE", key, query, frozenset({_REFUSED, _GONE}), more)
            if status != _REFUSED:
                return None
        until_s = self._locked_until_s(version)
        if until_s is None or until_s <= time.time():
            raise self._error(doing, status=_REFUSED)
        return until_s

    def demand_removable(self) -> None:
        """Try to list and remove versions of a missing file: with the right, the answer is that there are none."""
        next(self.listed(_NOBODY, ""), None)
        query = {"versionId": "null"}
        status, _ = self._ask(
            "asking for the right", "DELETE", self._root + _NOBODY, query, frozenset({_REFUSED, _GONE})
        )
        if status == _REFUSED:
            raise StorageError(
                f"the bucket {self._address.bucket} keeps older versions, but these keys may not remove them: allow "
                f"them s3:DeleteObjectVersion, or use keys that may"
            )

    def locked_days(self) -> int | None:
        """Ask for the default retention."""
        status, body = self._ask("asking for its default retention", "GET", "", {"object-lock": ""}, _NO_LOCKS)
        if status not in _OK:
            return None
        found = _parsed(body).find(".//{*}DefaultRetention")
        if found is None:
            return None
        days, years = found.findtext("{*}Days"), found.findtext("{*}Years")
        return int(days) if days else _YEAR_DAYS * int(years) if years else None

    # --- helpers -----------------------------------------------------------------------------------------------------

    @property
    def _root(self) -> str:
        return f"{self._address.prefix}/" if self._address.prefix else ""

    def _version(self, one: ET.Element, prefix: str) -> RemoteVersion | None:
        kind, key = one.tag.rpartition("}")[2], one.findtext("{*}Key") or ""
        if kind not in {"Version", "DeleteMarker"} or not key.startswith(self._root + prefix):
            return None
        return RemoteVersion(
            key=key.removeprefix(self._root),
            id=one.findtext("{*}VersionId") or "null",
            size=int(one.findtext("{*}Size") or 0),
            changed_s=datetime.fromisoformat(one.findtext("{*}LastModified") or "").timestamp(),
            tag=(one.findtext("{*}ETag") or "").strip('"') or None,
            is_marker=kind == "DeleteMarker",
            is_newest=(one.findtext("{*}IsLatest") or "").lower() == "true",
        )

    def _locked_until_s(self, version: RemoteVersion) -> float | None:
        """Return when its lock ends, in seconds since 1970, None if it is not locked."""
        key, query = self._root + version.key, {"retention": "", "versionId": version.id}
        status, body = self._ask("asking for a lock", "GET", key, query, _NO_LOCKS | {_REFUSED})
        until = _parsed(body).findtext("{*}RetainUntilDate") if status in _OK else None
        return datetime.fromisoformat(until).timestamp() if until else None

    def _ask(  # noqa: PLR0917 -- it is one request
        self,
        doing: str,
        method: str,
        key: str,
        query: Mapping[str, str],
        accepted: frozenset[int] = frozenset(),
        more: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return a good answer, or one that is `accepted`, after retries if needed. Raises: StorageError."""
        import requests

        doing = f"{doing} in {self._address}"

        def once() -> tuple[int, bytes]:
            try:
                status, body = self._requests.ask(method, key, query, more)
            except requests.RequestException as error:
                # Not `from error`, because its text can contain anything that was sent.
                raise PassingError(f"{doing}: the store cannot be reached ({type(error).__name__})") from None
            if status in _OK or status in accepted:
                return status, body
            raise self._error(doing, status=status, body=body)

        return self._retries.run(once)

    def _error(self, doing: str, *, status: int, body: bytes = b"") -> StorageError:
        code = code_in(body.decode(errors="replace"))
        return bucket_error(doing, self._address.bucket, code=code, status=status)


def _parsed(body: bytes) -> ET.Element:
    try:
        return ET.fromstring(body)  # noqa: S314 -- expat expands no external entities, and the answer is bounded
    except ET.ParseError:
        raise StorageError("the store's answer about versions is not XML: does it support versions?") from None
