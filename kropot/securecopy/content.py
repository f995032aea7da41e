"""What makes the answer to a content request believable: its head, its end, its length.

Pure: headers and bytes in, a value or a reason out (docs/protocol.md, Contents). The old server sends no length and no
digest, answers errors with the headers of success, and appends error pages to ciphertexts; so a body is believed only
if it passes all checks. Reasons are stable words without names, addresses or secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from kropot.errors import KropotError
from kropot.sc2.layout import MEDIA_TYPE
from kropot.securecopy.iv import BLOCK, parse_iv

CONTENT_TYPE = "application/octet-stream"
ACCEPT = f"{MEDIA_TYPE}, */*"
"""What a collector accepts. A gateway sends objects of `sc2` only if they are named here; other servers ignore it."""

IV_HEADER = "Encryption-Initialization-Vector"
TAIL_BYTES = 4096

_DIGITS = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_TEXT = frozenset(b"\t\n\r" + bytes(range(0x20, 0x7F)))
_TEXT_RUN = 64
_PAGE_END = re.compile(rb"</html>\s*(?:<!--[^\x00]*-->\s*)?\Z", re.IGNORECASE)
_SYMFONY_PAGE = re.compile(rb"<title>An Error Occurred: .*</html>\s*\Z", re.DOTALL)
_SINGLE = frozenset({"content-type", "content-length", "content-range", "content-encoding", "etag", IV_HEADER.lower()})
_OK = 200
_PARTIAL_CONTENT = 206
_NOT_ACCEPTABLE = 406


class UnbelievableError(KropotError):
    """A content answer that is not a sound copy; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        """Remember the reason."""
        super().__init__(f"the content that came is not a sound copy: {reason}")
        self.reason = reason


class ContentHead(Struct, frozen=True, kw_only=True):
    """What the head of a believable content answer says.

    `iv` is None for plain content and for objects of `sc2`; `length` is the whole content's length in bytes if the
    server gives it; `offset` is where the body begins within the content: 0, or more for a resumed transfer.
    """

    iv: bytes | None
    length: int | None
    etag: str | None
    type: str
    offset: int = 0


def read_content_head(
    status: int,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    opaque: bool | None = None,
    sc2: bool = False,
    resumed_at: int = 0,
) -> ContentHead:
    """Return what the head of a content answer says, if a sound copy can follow it.

    `opaque` is whether contents of this source are encrypted (None: not known yet), and `sc2` whether this one is an
    object of `sc2`; `resumed_at` is the offset that a Range request asked for. The header that carries the plain file
    name is ignored.

    Raises:
        UnbelievableError: `reason` is "http_<status>", "not_octet_stream", "not_sc2", "encoded", "iv_not_hex",
            "iv_missing", "bad_length", "bad_range" or "ambiguous_head".
    """
    if sc2 and status == _NOT_ACCEPTABLE:
        raise UnbelievableError("not_sc2")
    if status != _OK and not (resumed_at and status == _PARTIAL_CONTENT):
        raise UnbelievableError(f"http_{status}")
    known = _head_fields(headers)
    kind = media_type(known.get("content-type"))
    if kind != (MEDIA_TYPE if sc2 else CONTENT_TYPE):
        raise UnbelievableError("not_sc2" if sc2 else "not_octet_stream")
    if known.get("content-encoding", "identity").lower() != "identity":
        raise UnbelievableError("encoded")
    iv = None
    if (text := known.get(IV_HEADER.lower())) is not None:
        if sc2:
            raise UnbelievableError("not_sc2")
        iv = parse_iv(text)
        if iv is None:
            raise UnbelievableError("iv_not_hex")
    elif opaque and not sc2:
        raise UnbelievableError("iv_missing")
    length, offset = _extent(known, status, resumed_at)
    if iv is not None and length is not None and (length == 0 or length % BLOCK):
        raise UnbelievableError("bad_length")
    return ContentHead(iv=iv, length=length, etag=known.get("etag"), type=kind, offset=offset)


def check_tail(tail: bytes, length: int, *, opaque: bool, sc2: bool = False, expected: int | None = None) -> None:
    """Refuse a body of `length` bytes that ends in `tail` (its last 4096 bytes, or all) if it is not a sound copy.

    The old server appends its HTML error page to a ciphertext that it could not finish, and then ends the transfer
    cleanly. A ciphertext looks random: one that ends in 64 characters of text is not a ciphertext (1 in 10^26).

    Raises:
        UnbelievableError: `reason` is "wrong_length", "empty", "not_whole_blocks" or "error_page".
    """
    if opaque:
        if length == 0:
            raise UnbelievableError("empty")
        text_run = tail[-_TEXT_RUN:]
        # Every page ends like this. The search costs as much as all other checks of a small content.
        is_like_page = tail.rstrip().endswith(b">")
        if (is_like_page and _PAGE_END.search(tail)) or (len(text_run) == _TEXT_RUN and _TEXT.issuperset(text_run)):
            raise UnbelievableError("error_page")
        if length % BLOCK and not sc2:
            raise UnbelievableError("not_whole_blocks")
    elif expected is None and _SYMFONY_PAGE.search(tail):
        # Plain content can well be a web page, so this is taken for the server's only if there is no length to compare.
        raise UnbelievableError("error_page")
    if expected is not None and length != expected:
        raise UnbelievableError("wrong_length")


class TailCheck:
    """Follows a body as it comes, keeps its last 4096 bytes, and judges it at its end."""

    __slots__ = ("length", "tail")

    def __init__(self) -> None:
        """Start with an empty body."""
        self.length = 0
        self.tail = b""

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        size = len(chunk)
        self.length += size
        self.tail = bytes(chunk[-TAIL_BYTES:]) if size >= TAIL_BYTES else (self.tail + chunk)[-TAIL_BYTES:]

    def finish(self, *, opaque: bool, sc2: bool = False, expected: int | None = None) -> None:
        """Judge the whole body, as `check_tail` does.

        Raises:
            UnbelievableError: it is not a sound copy.
        """
        check_tail(self.tail, self.length, opaque=opaque, sc2=sc2, expected=expected)


def media_type(content_type: str | None) -> str:
    """Return the bare media type of a Content-Type header in lower case, "" if there is none."""
    return "" if content_type is None else content_type.partition(";")[0].strip().lower()


def _head_fields(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields that matter, by lower-case name; two that disagree are refused."""
    known: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        field = name.lower()
        if known.setdefault(field, value.strip()) != value.strip() and field in _SINGLE:
            raise UnbelievableError("ambiguous_head")
    return known


def _extent(known: dict[str, str], status: int, resumed_at: int) -> tuple[int | None, int]:
    """Return the whole content's length, if it is given, and the offset at which the body begins."""
    length = None
    if (text := known.get("content-length")) is not None:
        if not _DIGITS.fullmatch(text):
            raise UnbelievableError("bad_length")
        length = int(text)
    if status != _PARTIAL_CONTENT:
        return length, 0
    found = _CONTENT_RANGE.fullmatch(known.get("content-range", ""))
    if found is None:
        raise UnbelievableError("bad_range")
    first, last, total = int(found[1]), int(found[2]), int(found[3])
    if first != resumed_at or last != total - 1 or length not in {None, total - first}:
        raise UnbelievableError("bad_range")
    return total, first
