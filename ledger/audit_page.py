"""What nearly every sound event satisfies, asked of a whole page at once, column by column (docs/format.md)."""

from __future__ import annotations

import hashlib
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgpack

from ledger.audit_event import COMMON
from ledger.codec import FORMAT, is_known
from ledger.events import RemoteObserved
from ledger.pattern import number, recogniser

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from ledger.audit_rows import Row

_ELEMENT = recogniser(RemoteObserved, "element_copy_sha256", "element_copy_size")
"""All common types hold an element and nothing else, and have the same schema version."""
_VERSION = RemoteObserved.VERSION
_LENGTH, _BYTES = _ELEMENT.groups["length"], _ELEMENT.groups["bytes"]
_SHA256, _SIZE = _ELEMENT.groups["element_copy_sha256"], _ELEMENT.groups["element_copy_size"]
_SHA256_BYTES = 32


def recognise(page: Sequence[Row], digests: Mapping[int, bytes]) -> list[re.Match[bytes] | None]:
    """Return, for each event, its payload as recognised, or None, of which nothing follows.

    What is recognised agrees with itself: it is of a common type, its payload is a good and canonical one, the header
    holds exactly its columns, the digest of payload and nonce and that of its stream (`digests`, by stream number),
    and the leaf is the header's hash. How it stands to other events is not looked at. The columns MUST have the types
    that they were made with.
    """
    seqs, streams, versions, names, schemas, flags, recorded, observed, writers, headers, nonces, payloads, leaves = (
        zip(*page, strict=True)
    )
    if None in nonces or None in payloads:
        pairs: Any = [
            (b"", b"") if nonce is None or payload is None else (nonce, payload)
            for nonce, payload in zip(nonces, payloads, strict=True)
        ]
        nonces, payloads = zip(*pairs, strict=True)
    sha256, pack = hashlib.sha256, msgpack.Packer(use_bin_type=True).pack
    digested = [sha256(nonce + payload).digest() for nonce, payload in zip(nonces, payloads, strict=True)]
    packed = map(
        pack,
        zip(
            repeat(FORMAT),
            seqs,
            map(digests.get, streams),
            versions,
            names,
            schemas,
            flags,
            recorded,
            observed,
            writers,
            digested,
            strict=False,
        ),
    )
    hashed = [sha256(b"\x00" + header).digest() for header in headers]
    matches = list(map(_ELEMENT.match, payloads))
    common = frozenset(name for name in COMMON if is_known(name, _VERSION))
    if not common.issuperset(names) or flags.count(0) != len(flags) or schemas.count(_VERSION) != len(schemas):
        matches = [
            match if name in common and schema == _VERSION and flag == 0 else None
            for match, name, schema, flag in zip(matches, names, schemas, flags, strict=True)
        ]
    length, body, claimed = _LENGTH, _BYTES, int.from_bytes
    return [
        match
        if match is not None
        and wanted == header
        and leaf == digest
        and claimed(match[length][1:], "big") == match.end(body) - match.start(body)
        else None
        for match, wanted, header, leaf, digest in zip(matches, packed, headers, leaves, hashed, strict=True)
    ]


def copies_in(found: Sequence[tuple[re.Match[bytes], int, int]]) -> list[tuple[bytes, int, int, int]]:
    """Return SHA-256, stream, size and position of the copies named by recognised payloads, given with the last two."""
    return [
        (sha256[-_SHA256_BYTES:], stream, number(size), seq)
        for (sha256, size), stream, seq in ((match.group(_SHA256, _SIZE), stream, seq) for match, stream, seq in found)
        if sha256 is not None
    ]
