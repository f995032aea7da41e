"""How to reach a bucket: the usual `AWS_*` variables, checked before any request. None of them is ever shown."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from kropot.errors import UsageError
from kropot.secret import Secret, repr_without

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ELSEWHERE = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""Variables that say where keys come from, if the keys themselves are not set."""


class BucketAccess(Struct, frozen=True, kw_only=True):
    """Where a bucket's server is, and the keys to access it; without keys, obstore looks for some, as on AWS.

    `endpoint` is None for AWS itself. `ca_pem` are certificates to trust in addition to those of the system.
    """

    endpoint: str | None
    region: str
    key_id: Secret | None = None
    secret: Secret | None = None
    session: Secret | None = None
    is_virtual_hosted: bool = False
    ca_file: Path | None = None
    ca_pem: bytes | None = None

    __repr__ = repr_without("key_id", "secret", "session", "ca_pem")


def bucket_access(environ: Mapping[str, str], ca_file: Path | None) -> BucketAccess:
    """Return the access that the environment describes.

    Raises: UsageError if the address is not valid, if one key of a pair is missing, or if nothing gives keys.
    """
    endpoint = _first(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if endpoint is not None:
        _check_endpoint(endpoint)
    key_id, secret = _first(environ, "AWS_ACCESS_KEY_ID"), _first(environ, "AWS_SECRET_ACCESS_KEY")
    session = _first(environ, "AWS_SESSION_TOKEN", "AWS_TOKEN")
    if (key_id is None) != (secret is None):
        there, missing = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")[:: 1 if key_id is None else -1]
        raise UsageError(f"{there} is set, but {missing} is not: a bucket needs both")
    if key_id is None and endpoint is not None and not any(environ.get(name) for name in _ELSEWHERE):
        raise UsageError("no keys for the bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
    try:
        ca_pem = None if ca_file is None else ca_file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the --ca-file {ca_file} ({error.strerror}): check the path") from error
    return BucketAccess(
        endpoint=None if endpoint is None else endpoint.rstrip("/"),
        region=_first(environ, "AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1",
        key_id=None if key_id is None else Secret(key_id),
        secret=None if secret is None else Secret(secret),
        session=None if session is None else Secret(session),
        is_virtual_hosted=environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in {"1", "true", "yes"},
        ca_file=ca_file,
        ca_pem=ca_pem,
    )


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        is_sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_sound = False
    if not is_sound or parts.username is not None or parts.query or parts.fragment:
        raise UsageError("AWS_ENDPOINT_URL is not the address of a server: write https://HOST or https://HOST:PORT")


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)
