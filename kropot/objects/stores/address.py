"""What `--storage-path` can name: a folder, `s3://bucket/prefix` or `sftp://user@host/path`. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from msgspec import Struct

from kropot.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}").fullmatch
_HOST = re.compile(r"\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+").fullmatch
_MOST_PORT = 65_535


class BucketAddress(Struct, frozen=True):
    """A bucket, and the prefix of all keys in it without slashes at its ends; "" is the whole bucket.

    `lock_days` is for how many days the bucket locks what is written, as the user says; None if it locks nothing.
    """

    bucket: str
    prefix: str = ""
    lock_days: int | None = None

    def __str__(self) -> str:
        """Return the URL."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


class SftpAddress(Struct, frozen=True):
    """A folder on an SFTP server, absolute unless it begins with `~/`; without a user or port, SSH's rules apply."""

    host: str
    path: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """Return the URL."""
        user = "" if self.user is None else f"{quote(self.user)}@"
        port = "" if self.port is None else f":{self.port}"
        path = self.path if self.path.startswith("/") else f"/{self.path}"
        return f"sftp://{user}{self.host}{port}{quote(path, safe='/~')}"


StorageAddress = Path | BucketAddress | SftpAddress
"""A local folder, a bucket, or a folder on an SFTP server."""


def parse_storage(text: str) -> StorageAddress:
    """Return the storage that a text names; a text that is not a URL is a path.

    Raises: UsageError for a URL that is not understood, or has a password or keys in it. The error does not show it.
    """
    match = _SCHEME.fullmatch(text)
    if match is None:
        return Path(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "s3":
        return _bucket(rest)
    if scheme == "sftp":
        return _sftp(rest)
    raise UsageError(
        f"a storage cannot be at {scheme}://: name a folder, s3://BUCKET/PREFIX or sftp://USER@HOST/PATH with "
        "--storage-path"
    )


def shown_storage(address: StorageAddress) -> str:
    """Return the address in a form that means the same in every working directory."""
    return str(address.absolute()) if isinstance(address, Path) else str(address)


def _bucket(rest: str) -> BucketAddress:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError(
            "an s3:// address holds only the bucket and a prefix: give keys as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and another server as AWS_ENDPOINT_URL, in the environment"
        )
    if _BUCKET(bucket) is None:
        raise UsageError("the s3:// address of --storage-path has no valid bucket: write s3://BUCKET/PREFIX")
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if any(part in {"", ".", ".."} for part in parts) or any(sign in prefix for sign in "?#%\\\r\n\0"):
        raise UsageError(
            "the prefix of the s3:// address of --storage-path has an empty part, a dot, or one of ? # % \\: use plain"
            " names between slashes"
        )
    return BucketAddress(bucket, prefix)


def _sftp(rest: str) -> SftpAddress:
    where, slash, path = rest.partition("/")
    user, at, machine = where.rpartition("@")
    if ":" in user or "@" in user:
        raise UsageError(
            "an sftp:// address must not hold a password: use a key (ssh-agent or ~/.ssh), and write "
            "sftp://USER@HOST/PATH"
        )
    host, _, port = (machine, "", "") if machine.endswith("]") else machine.rpartition(":")
    if not port or not host:
        host, port = machine, ""
    is_port = port == "" or (port.isascii() and port.isdigit() and 0 < int(port) <= _MOST_PORT)
    if _HOST(host) is None or not is_port or (at and not user):
        raise UsageError("the sftp:// address of --storage-path is not valid: write sftp://USER@HOST:PORT/PATH")
    folder = unquote(path).rstrip("/")
    if not slash or not folder or "\0" in folder or any(part in {".", ".."} for part in folder.split("/")):
        raise UsageError(
            "the sftp:// address of --storage-path names no folder: write sftp://USER@HOST/srv/backup, or "
            "sftp://USER@HOST/~/backup for one in the user's home"
        )
    whole = folder if folder.startswith("~/") else f"/{folder.lstrip('/')}"
    return SftpAddress(host=host, path=whole, user=unquote(user) if user else None, port=int(port) if port else None)
