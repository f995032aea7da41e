"""What a bucket's server can answer, as one clear sentence: what is wrong, and what to do. Pure."""

from __future__ import annotations

import re
from typing import Final

from kropot.durable.errors import StorageError, StorageFullError
from kropot.objects.stores.retry import PassingError, SlowDownError
from kropot.secret import redact

_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,60})\s*</Code>")
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_STATUS = re.compile(r"status code: (\d{3})")
_SERVER: Final = 500

_MEANINGS: Final[tuple[tuple[frozenset[str], frozenset[int], type[StorageError], str], ...]] = (
    (
        frozenset({"NoSuchBucket"}),
        frozenset(),
        StorageError,
        "there is no bucket {bucket}: create it, or correct --storage-path",
    ),
    (
        frozenset({"RequestTimeTooSkewed", "RequestExpired"}),
        frozenset(),
        StorageError,
        (
            "the clocks of this machine and of the store differ too much ({known}): correct this machine's clock, for "
            "instance with NTP"
        ),
    ),
    (
        frozenset(
            {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"}
        ),
        frozenset(),
        StorageError,
        (
            "the store does not accept these keys ({known}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN"
        ),
    ),
    (
        frozenset(
            {
                "InsufficientStorage",
                "QuotaExceeded",
                "StorageQuotaExceeded",
                "XMinioAdminBucketQuotaExceeded",
                "XMinioStorageFull",
            }
        ),
        frozenset({507}),
        StorageFullError,
        "the store is full, or its quota is used up ({known}): free some space, and it goes on by itself",
    ),
    (
        frozenset({"RequestLimitExceeded", "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite"})
        | frozenset({"Throttling", "ThrottlingException", "TooManyRequests"}),
        frozenset({429, 503}),
        SlowDownError,
        "the store asks for fewer requests ({known}), even after several attempts",
    ),
    (
        frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}),
        frozenset({301, 307}),
        StorageError,
        "the bucket is in another region or at another address ({known}): set AWS_REGION and AWS_ENDPOINT_URL",
    ),
    (
        frozenset({"AccessDenied"}),
        frozenset({401, 403}),
        StorageError,
        (
            "the store refuses this ({known}): check the keys (AWS_ACCESS_KEY_ID), and that they may list, read, write "
            "and delete in the bucket {bucket}"
        ),
    ),
)
"""Codes, HTTP statuses without a code, the kind of error, and the message."""


def code_in(answer: str) -> str | None:
    """Return the error code in a server's answer, None if there is none."""
    found = _CODE.search(answer)
    return None if found is None else found[1]


def status_in(answer: str) -> int | None:
    """Return the HTTP status in a message from obstore, None if there is none."""
    found = _STATUS.search(answer)
    return None if found is None else int(found[1])


def bucket_error(doing: str, bucket: str, *, code: str | None, status: int | None, text: str = "") -> StorageError:
    """Return the error for an answer with this code and HTTP status, met while `doing` something.

    `text` is the client library's message. Only the kind of failure is taken from it, because it can contain anything.
    """
    if code is None and status is None:
        return _unreachable(doing, text)
    known = code or f"HTTP {status}"
    kind, why = _judged(code, status or 0)
    return kind(f"{doing}: " + why.format(known=known, bucket=bucket))


def _judged(code: str | None, status: int) -> tuple[type[StorageError], str]:
    """Return the kind of error, and the sentence."""
    for codes, statuses, kind, why in _MEANINGS:
        if code in codes or (code is None and status in statuses):
            return kind, why
    if status >= _SERVER:
        return PassingError, "the store has an internal error ({known}), even after several attempts"
    return StorageError, "the store answered {known}"


def _unreachable(doing: str, text: str) -> StorageError:
    kind = _KIND.search(text)
    if "UnknownIssuer" in text or "InvalidCertificate" in text or "certificate" in text:
        return StorageError(f"{doing}: the store's certificate is not trusted: name its authority with --ca-file")
    if "dns error" in text or "failed to lookup" in text:
        why = "its name cannot be resolved"
    elif "ConnectionRefused" in text:
        why = "it refuses connections"
    elif (kind is not None and kind[1] == "Timeout") or "TimedOut" in text:
        why = "it does not answer in time"
    else:
        why = "the connection broke"
    return PassingError(redact(f"{doing}: the store cannot be reached ({why}): check AWS_ENDPOINT_URL and the network"))
