"""Files in a bucket, through obstore. A write is trusted only once its size and digest were read back.

obstore's threads do not survive a fork, so a client is made at its first use, and this process never forks after that.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from msgspec.structs import replace

from kropot.durable.errors import StorageError
from kropot.durable.filesystem import Room
from kropot.errors import UsageError
from kropot.logs import log
from kropot.objects.stores.files import MARKER, PIECE, Capabilities, NoSuchKeyError, RemoteStat, RemoteVersion
from kropot.objects.stores.retry import PassingError, Retries
from kropot.objects.stores.s3_errors import bucket_error, code_in, status_in
from kropot.objects.stores.s3_uploads import BucketUploads
from kropot.objects.stores.s3_versions import BucketVersions
from kropot.processes import forbid_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kropot.objects.stores.address import BucketAddress
    from kropot.objects.stores.files import RemoteFiles
    from kropot.objects.stores.s3_settings import BucketAccess

T = TypeVar("T")

PART = 16 << 20
"""Bytes per part of a multipart upload; more if there would be too many parts."""

REQUEST_RETRIES = 4
_MOST_PARTS = 9000
_PAGE = 1000
_MOST_COPIED = 5 << 30
"""The most bytes that a server copies in one request."""

_HEADLESS, _NO_RANGE = frozenset({400, 401, 403}), 416
_BRISK_S, _PATIENT_S = 60, 300


class BucketFiles:
    """The files below a prefix in a bucket; each process makes its own clients, at their first use."""

    def __init__(
        self,
        address: BucketAddress,
        access: BucketAccess,
        *,
        retries: Retries | None = None,
        request_retries: int = REQUEST_RETRIES,
    ) -> None:
        """Ask nothing yet. obstore itself retries each request, `request_retries` times; `retries` repeat all of it."""
        self._address = address
        self._access = access
        self._retries = Retries(attempts=3) if retries is None else retries
        self._request_retries = request_retries
        self._clients: dict[bool, Any] = {}
        self._pid = 0
        self._lock = threading.Lock()
        self._uploads = BucketUploads(address, access)
        # obstore makes none of these requests, so they have to retry as often by themselves.
        attempts = self._retries.attempts * (1 + request_retries)
        self._versions = BucketVersions(address, access, replace(self._retries, attempts=attempts))
        self._has_ranges = True
        self._tags_are_md5 = True
        self._tells_versions = True

    def __getstate__(self) -> dict[str, Any]:
        """Leave the clients out, because another process makes its own."""
        return {
            "address": self._address,
            "access": self._access,
            "retries": self._retries,
            "request_retries": self._request_retries,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without clients."""
        self.__init__(**state)  # type: ignore[misc]

    @property
    def place(self) -> str:
        """The URL of bucket and prefix."""
        return str(self._address)

    @property
    def can(self) -> Capabilities:
        """What every bucket can do; servers that can refuse to overwrite an object are treated like the others."""
        return Capabilities(
            conditional_put=False,
            rename=False,
            free_space=False,
            digests=self._tags_are_md5,
            ranges=self._has_ranges,
            versions=self._versions.is_able,
        )

    def put(self, key: str, data: bytes) -> None:
        """Write in one request, and read size and digest back."""
        import obstore

        doing, whole = f"writing {self.place}/{key}", self._key(key)
        self._ask(doing, key, lambda: obstore.put(self._client(patient=True), whole, data, use_multipart=False))
        self._confirm(key, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest(), lambda: io.BytesIO(data))

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Write in parts if there is more than one; abort the upload if it fails."""
        import obstore

        size = file.seek(0, io.SEEK_END)
        part = max(PART, -(-size // _MOST_PARTS))
        if size <= part:
            file.seek(0)
            self.put(key, file.read())
            return
        doing, whole, tag = f"writing {self.place}/{key}", self._key(key), _tag_of_parts(file, part)

        def send() -> None:
            file.seek(0)
            # obstore takes the file as it is, and reads it from its own threads.
            obstore.put(self._client(patient=True), whole, file, chunk_size=part, max_concurrency=2)

        try:
            self._ask(doing, key, send)
        except StorageError:
            self._uploads.abort(whole)
            raise
        self._confirm(key, size, tag, lambda: file)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Ask for the range, or for the whole file if the server does not support ranges."""
        if end is not None and end <= start:
            return b""
        if not self._has_ranges:
            return self._whole(key)[start:end]
        if start == 0 and end is None:
            return self._whole(key)
        return self._range(key, {"offset": start} if end is None else (start, end), start, end)[0]

    def fetch(self, key: str, into: BinaryIO) -> None:
        """Stream it; if that breaks, start again from the beginning."""
        self._fetch(key, into, None)

    def tail(self, key: str, length: int) -> tuple[bytes, RemoteStat]:
        """Ask for the last bytes; the answer also gives the size."""
        if self._has_ranges:
            data, meta = self._range(key, {"suffix": length}, -length, None)
            if meta is not None:
                return data, self._stat_of(meta)
        stat = self.stat(key)
        if stat is None:
            raise NoSuchKeyError(self.place, key)
        return (self._whole(key) if stat.size else b""), stat

    def stat(self, key: str) -> RemoteStat | None:
        """Send a HEAD request."""
        import obstore

        try:
            meta = self._ask(
                f"looking at {self.place}/{key}", key, lambda: obstore.head(self._client(), self._key(key))
            )
        except NoSuchKeyError:
            return None
        return self._stat_of(cast("dict[str, Any]", meta))

    def walk(self, folder: str, after: str = "") -> Iterator[RemoteStat]:
        """List page by page; a page that fails is asked for again from the last key on."""
        doing = f"listing {self.place}/{folder}"
        while True:
            page = self._ask(doing, folder, partial(self._page, folder, after))
            # Even if a server begins at the wrong place, no file is yielded twice.
            yield from (one for one in page if one.key > after)
            if len(page) < _PAGE or page[-1].key <= after:
                return
            after = page[-1].key

    def remove(self, key: str) -> None:
        """Delete; in a bucket with versions this leaves the older ones."""
        import obstore

        try:
            self._ask(f"removing {self.place}/{key}", key, lambda: obstore.delete(self._client(), self._key(key)))
        except NoSuchKeyError:
            return

    def move(self, source: str, target: str) -> None:
        """Copy on the server, compare the sizes, then delete."""
        import obstore

        there = self.stat(source)
        if there is None:
            raise NoSuchKeyError(self.place, source)
        if there.size >= _MOST_COPIED:
            raise StorageError(
                f"moving {self.place}/{source}: it has more than 5 GiB, which a bucket cannot copy in one request: "
                f"download it and remove it by hand"
            )
        doing = f"copying {self.place}/{source}"
        self._ask(doing, source, lambda: obstore.copy(self._client(patient=True), self._key(source), self._key(target)))
        copied = self.stat(target)
        if copied is None or copied.size != there.size:
            raise StorageError(f"{doing}: the copy is not complete, so nothing was removed")
        self.remove(source)

    def keeps_versions(self) -> bool:
        """Ask the bucket. If it does not tell these keys, or there are no keys to sign with, no versions are known."""
        try:
            return self._tells_versions and self._versions.is_able and self._versions.are_kept()
        except PassingError:
            raise
        except StorageError as error:
            log.debug("versions_unknown", bucket=self._address.bucket, reason=str(error))
            self._tells_versions = False
            return False

    def versions(self, prefix: str, after: str = "") -> Iterator[RemoteVersion]:
        """List page by page."""
        return self._versions.listed(prefix, after)

    def older(self) -> RemoteFiles:
        """Return another reader of the same bucket."""
        from kropot.objects.stores.older import OlderFiles

        return OlderFiles(self._address, self._access, retries=self._retries, request_retries=self._request_retries)

    def fetch_version(self, version: RemoteVersion, into: BinaryIO) -> None:
        """Stream it, as `fetch` does."""
        self._fetch(version.key, into, version.id)

    def get_version(self, version: RemoteVersion, start: int, end: int) -> bytes:
        """Ask for the range."""
        if end <= start:
            return b""
        return self._range(version.key, (start, end), start, end, version.id)[0]

    def remove_version(self, version: RemoteVersion) -> float | None:
        """Remove it, unless it is locked."""
        return self._versions.remove(version)

    def demand_removable(self) -> None:
        """Make a request that changes nothing."""
        if self._versions.is_able:
            if self._versions.are_kept():
                self._versions.demand_removable()
        elif self._has_version(MARKER):
            raise StorageError(
                f"older versions in {self.place} can be removed only with explicit keys: set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY in the environment"
            )

    def locked_days(self) -> int | None:
        """Ask for the bucket's default retention."""
        return self._versions.locked_days() if self._versions.is_able else None

    def room(self) -> Room:
        """Return that nothing is known, because buckets do not say."""
        return Room(bytes=None, files=None)

    def sweep(self, instance: str) -> int:  # noqa: ARG002 -- multipart uploads have no names
        """Abort the multipart uploads below the prefix that began more than a day ago: no write takes that long."""
        return self._uploads.abort_old()

    def close(self) -> None:
        """Forget the clients, which end their connections."""
        with self._lock:
            self._clients.clear()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _key(self, key: str) -> str:
        return f"{self._address.prefix}/{key}" if self._address.prefix else key

    def _stat_of(self, meta: dict[str, Any]) -> RemoteStat:
        path, prefix = str(meta["path"]), self._address.prefix
        key = path[len(prefix) + 1 :] if prefix else path
        return RemoteStat(
            key, int(meta["size"]), meta["last_modified"].timestamp(), (meta["e_tag"] or "").strip('"') or None
        )

    def _page(self, folder: str, after: str) -> list[RemoteStat]:
        import obstore

        offset = self._key(after) if after else None
        listed = obstore.list(
            self._client(), prefix=self._key(folder).strip("/") or None, offset=offset, chunk_size=_PAGE
        )
        return [self._stat_of(cast("dict[str, Any]", meta)) for meta in next(iter(listed), [])]

    def _has_version(self, key: str) -> bool:
        """Whether a file has a version id, as every file has if versions are kept."""
        import obstore

        doing = f"looking at {self.place}/{key}"
        meta = self._ask(doing, key, lambda: obstore.head(self._client(), self._key(key)))
        return cast("dict[str, Any]", meta)["version"] is not None

    def _fetch(self, key: str, into: BinaryIO, version: str | None) -> None:
        import obstore

        def read() -> None:
            into.seek(0)
            into.truncate()
            found = obstore.get(self._client(patient=True), self._key(key), options=_options(version))
            into.writelines(found.stream(min_chunk_size=PIECE // 8))

        self._ask(f"reading {self.place}/{key}", key, read)

    def _whole(self, key: str, version: str | None = None) -> bytes:
        import obstore

        def read() -> bytes:
            found = obstore.get(self._client(patient=True), self._key(key), options=_options(version))
            return bytes(found.bytes())

        return self._ask(f"reading {self.place}/{key}", key, read)

    def _range(
        self, key: str, wanted: Any, start: int, end: int | None, version: str | None = None
    ) -> tuple[bytes, dict[str, Any] | None]:
        """Return the bytes, and what is known about the file: None without support for ranges, or for this one."""
        import obstore

        def read() -> tuple[bytes, dict[str, Any] | None]:
            try:
                result = obstore.get(self._client(), self._key(key), options=_options(version, range=wanted))
                return bytes(result.bytes()), cast("dict[str, Any]", result.meta)
            except obstore.exceptions.BaseError as error:
                if "non-partial response" in str(error) or "NotPartial" in str(error):
                    self._has_ranges = False
                    return b"", None
                if status_in(str(error)) == _NO_RANGE or code_in(str(error)) == "InvalidRange":
                    return b"", None
                raise

        data, meta = self._ask(f"reading {self.place}/{key}", key, read)
        if meta is None and not self._has_ranges and start >= 0:
            data = self._whole(key, version)[start:end]
        return data, meta

    def _confirm(self, key: str, size: int, tag: str, open_: Callable[[], BinaryIO]) -> None:
        """Compare what is there now with what was sent. Raises: StorageError."""
        stat = self.stat(key)
        if stat is None:
            raise StorageError(f"{self.place}/{key} was acknowledged, but is missing: do not trust this store")
        if stat.size != size:
            raise StorageError(
                f"{self.place}/{key} has {stat.size} bytes in the store, but {size} were sent: sending it again"
            )
        if stat.tag == tag or not self._tags_are_md5:
            return
        # Some servers, and buckets with keys of their own, have tags that are not digests, so compare the bytes.
        sent, at = open_(), 0
        sent.seek(0)
        while at < size:
            piece = self.get(key, at, min(at + PIECE, size))
            if piece != sent.read(len(piece)) or not piece:
                raise StorageError(
                    f"{self.place}/{key} has different bytes in the store than were sent: sending it again"
                )
            at += len(piece)
        self._tags_are_md5 = False

    def _ask(self, doing: str, key: str, work: Callable[[], T]) -> T:
        """Do something with the client; retry if that might help. Raises: NoSuchKeyError, StorageError."""
        return self._retries.run(lambda: self._once(doing, key, work))

    def _once(self, doing: str, key: str, work: Callable[[], T]) -> T:
        import obstore

        try:
            return work()
        except FileNotFoundError as error:
            if code_in(str(error)) == "NoSuchBucket":
                raise self._error(doing, str(error)) from None
            raise NoSuchKeyError(self.place, key) from None
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            # Not `from error`, because its text can contain anything that was sent.
            raise self._error(doing, str(error)) from None

    def _error(self, doing: str, answer: str) -> StorageError:
        code, status = code_in(answer), status_in(answer)
        if code is None and status in _HEADLESS:
            code = self._why_refused()
        return bucket_error(doing, self._address.bucket, code=code, status=status, text=answer)

    def _why_refused(self) -> str | None:
        """Make a request whose answer has a body, because a HEAD answer says nothing but 403."""
        import obstore

        try:
            next(iter(obstore.list(self._client(), prefix=self._address.prefix or None, chunk_size=1)), None)
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            return code_in(str(error))
        return None

    def _client(self, *, patient: bool = False) -> Any:
        """Return this process's client; a patient one waits longer for an answer."""
        with self._lock:
            if self._pid != os.getpid():
                self._clients, self._pid = {}, os.getpid()
            client = self._clients.get(patient)
            if client is None:
                client = self._clients[patient] = self._made(patient=patient)
            return client

    def _made(self, *, patient: bool) -> Any:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise UsageError("an s3:// storage needs the extra `s3`: pip install 'kropotcli[s3]'") from None
        forbid_forks()
        access = self._access
        given: dict[str, Any] = {
            "access_key_id": access.key_id and access.key_id.reveal(),
            "secret_access_key": access.secret and access.secret.reveal(),
            "session_token": access.session and access.session.reveal(),
            "endpoint": access.endpoint,
        }
        options: dict[str, Any] = {
            "allow_http": (access.endpoint or "").startswith("http://"),
            "connect_timeout": "10s",
            "read_timeout": f"{_PATIENT_S if patient else _BRISK_S}s",
            "timeout": "6h" if patient else f"{_PATIENT_S}s",
        }
        if access.ca_pem is not None:
            options["root_certificate"] = access.ca_pem
        return S3Store(
            self._address.bucket,
            region=access.region,
            virtual_hosted_style_request=access.is_virtual_hosted,
            disable_bulk_delete=True,
            client_options=cast("Any", options),
            retry_config={
                "max_retries": self._request_retries,
                "retry_timeout": timedelta(seconds=120),
                "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2},
            },
            **{name: value for name, value in given.items() if value is not None},
        )


def _options(version: str | None, **more: Any) -> Any:
    """Return the options of a request for the newest version, or for this one."""
    return more if version is None else {**more, "version": version}


def _tag_of_parts(file: BinaryIO, part: int) -> str:
    """Return the tag of a multipart upload: the MD5 of the parts' MD5s, and their number."""
    file.seek(0)
    digests = []
    while True:
        digest, left = hashlib.md5(usedforsecurity=False), part
        while left and (data := file.read(min(PIECE, left))):
            digest.update(data)
            left -= len(data)
        if left == part:
            break
        digests.append(digest.digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
