"""What goes over the wire, as values: list pages and single entries, read and written.

Pure: bytes in, values or a reason out (docs/protocol.md). A page that cannot be read is refused as a whole with a
`BadPageError`; a single line that cannot be read is set aside as `Rejected`, since one bad row must not hide the
others. Reasons are stable words without names, addresses or secrets, so they may appear in logs and in the ledger.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import orjson
from msgspec import Struct
from msgspec.structs import asdict, replace

from kropot.errors import KropotError
from kropot.sc2.layout import is_list_form
from kropot.sc2.refused import RefusedError
from kropot.securecopy.bulkwire import VERSION as BULK_VERSION
from kropot.securecopy.content import (
    CONTENT_TYPE,
    IV_HEADER,
    ContentHead,
    TailCheck,
    UnbelievableError,
    check_tail,
    media_type,
    read_content_head,
)
from kropot.securecopy.sealed_form import (
    clear_header,
    element_in,
    etag_in,
    is_like_sealed,
    parse_vault,
    sealed_header,
    vault_in,
)
from kropot.securecopy.zones import MAX_DATE, MIN_DATE, is_known_zone, wall_clock
from ledger.events import Unserved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "CONTENT_TYPE",
    "IV_HEADER",
    "LIST_TYPE",
    "BadPageError",
    "ContentHead",
    "Listed",
    "Page",
    "Rejected",
    "TailCheck",
    "UnbelievableError",
    "canonical_json",
    "check_tail",
    "encode_entry",
    "encode_page",
    "encode_sealed_entry",
    "is_known_zone",
    "is_sealed_form",
    "media_type",
    "parse_entry",
    "parse_page",
    "parse_submitdata",
    "read_content_head",
    "sealed_header",
    "wall_clock",
]

LIST_TYPE = "text/plain; charset=UTF-8"

MAX_ID_BYTES = 512
MAX_WORD = 64
MAX_FORM_BYTES = 64 * 1024
MAX_ETAG = 256
MAX_SIZE = (1 << 63) - 1
MAX_LINE_BYTES = 1 << 20
"""A longer line is not decoded: an entry is far shorter, and decoding can need many times a line's size in memory."""

MAX_REJECTED = 8192
"""A page with more lines that are not entries is not a page. No page is requested with as many lines."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")
_SEALED_FORM = re.compile(rb'\{"encrypted":"[A-Za-z0-9+/=]*"\}')
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_DEEPEST: Final = 100
"""How deep lists and objects may be nested in a form. Python's own limit differs between releases."""

_OK = 200
_NOT_FOUND = 404


class BadPageError(KropotError):
    """An answer that is not a list page, or not an element; `reason` is a stable word."""

    def __init__(self, reason: str) -> None:
        """Remember the reason."""
        super().__init__(f"the server's answer could not be read: {reason}")
        self.reason = reason


class Listed(Struct, frozen=True, kw_only=True):
    """One entry of a list page.

    `date` is the server's integer seconds and `tz` its zone's name when the row was made; `form` is canonical JSON
    (sorted keys, compact, ASCII); `size` (of the content as it is sent, in bytes) and `etag` (as in the header, with
    its quotes) are only in lists of servers that know the extension. `header` is the clear header in a form of `sc2`
    (144 bytes), so that users of a page need not decode the form again.
    """

    type: str
    id: str
    date: int
    tz: str
    form: bytes
    size: int | None = None
    etag: str | None = None
    header: bytes | None = None

    @property
    def is_sealed(self) -> bool:
        """Whether the form is an envelope that only the key opens, as `is_sealed_form` says."""
        return self.header is not None or is_sealed_form(self.form)

    def vouches_for(self, etag: str | None, size: int | None) -> bool:
        """Return whether the server says that the content is still the one that it listed with this etag and size."""
        is_strong = etag is not None and etag.startswith('"')
        return is_strong and self.etag == etag and (size is None or self.size is None or self.size == size)


class Rejected(Struct, frozen=True, kw_only=True):
    """A line that is not an entry: its number on the page (from 1), why, and its date if that can be read."""

    line: int
    why: str
    date: int | None = None


class Page(Struct, frozen=True, kw_only=True):
    """One list page: `remaining` as the server claims; `closed` is the last second that it will not add to.

    `unserved` counts what the server does not serve of its source. Since the second `unscanned_since`, it fails to scan
    it. `vault` is the id (16 bytes) of the vault that seals every entry, each with a form of `sc2`. With `is_bulk` the
    server sends many small contents in one answer. All five are extensions.
    """

    entries: tuple[Listed, ...]
    rejected: tuple[Rejected, ...]
    remaining: int
    closed: int | None = None
    unserved: Unserved | None = None
    unscanned_since: int | None = None
    vault: bytes | None = None
    is_bulk: bool = False


def parse_page(status: int, content_type: str | None, body: bytes | bytearray) -> Page:
    """Return the list page in an answer. Besides the body, this takes memory for its entries and little else.

    Raises:
        BadPageError: the answer is not a list page, or it was cut; `reason` is "http_<status>", "not_a_list",
            "no_header", "bad_header", "truncated" or "bad_lines".
    """
    if status != _OK:
        raise BadPageError(f"http_{status}")
    if media_type(content_type) != "text/plain":
        raise BadPageError("not_a_list")
    gap = body.find(b"\n\n")
    if gap < 0:
        raise BadPageError("no_header")
    header = _parse_header(body[:gap])
    if not body.endswith(b"\n"):
        # Every line ends in a newline. If anything follows the last one, the page was cut.
        raise BadPageError("truncated")
    entries: list[Listed] = []
    rejected: list[Rejected] = []
    vault = header.vault
    for number, line in enumerate(_lines(body, gap + 2), 1):
        found = parse_entry(line)
        if isinstance(found, Listed):
            # A vault seals every entry, or none.
            if (None if found.header is None else vault_in(found.header)) == vault:
                entries.append(found)
                continue
            found = Rejected(line=number, why="other_vault", date=found.date)
        if len(rejected) == MAX_REJECTED:
            raise BadPageError("bad_lines")
        rejected.append(replace(found, line=number))
    return replace(header, entries=tuple(entries), rejected=tuple(rejected))


def parse_entry(line: bytes | bytearray) -> Listed | Rejected:
    """Return the entry in a line of JSON, or why it is not one."""
    if len(line) > MAX_LINE_BYTES:
        return Rejected(line=1, why="too_long")
    try:
        return _entry(orjson.loads(line))
    except orjson.JSONDecodeError:
        return Rejected(line=1, why="not_json")


def parse_submitdata(status: int, content_type: str | None, body: bytes | bytearray) -> Listed | None:
    """Return the element in an answer to submitdata, or None if the server says that it is gone.

    Only a 404 in JSON means gone: a router's or proxy's 404 page says nothing about the element.

    Raises:
        BadPageError: the answer is neither; `reason` is "http_<status>", "not_json" or a reason of a rejected line.
    """
    is_json = media_type(content_type) == "application/json"
    if status not in {_OK, _NOT_FOUND} or (status == _NOT_FOUND and not is_json):
        raise BadPageError(f"http_{status}")
    if not is_json:
        raise BadPageError("not_json")
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadPageError("not_json") from None
    if not isinstance(answer, dict):
        raise BadPageError("not_an_object")
    if status == _NOT_FOUND:
        if answer.get("object") is not None:
            raise BadPageError("http_404")
        return None
    found = _entry(answer.get("object", answer))
    if isinstance(found, Rejected):
        raise BadPageError(found.why)
    return found


def canonical_json(value: Any) -> bytes:
    """Return `value` as canonical JSON: sorted keys, compact, ASCII; NaN and infinities raise ValueError."""
    return _canonical(value).encode()


def is_sealed_form(form: bytes) -> bool:
    """Return whether a canonical form is an envelope that only the key opens, and nothing else."""
    return _SEALED_FORM.fullmatch(form) is not None


def encode_entry(entry: Listed) -> bytes:
    """Return the entry as its line in a list, newline included; fields that are None are left out."""
    head = b'{"type":%b,"id":%b,"date":%d,"tz":%b,"form":%b' % (
        _word(entry.type),
        _text(entry.id),
        entry.date,
        _word(entry.tz),
        entry.form,
    )
    if entry.size is not None:
        head += b',"size":%d' % entry.size
    if entry.etag is not None:
        head += b',"etag":' + _text(entry.etag)
    return head + b"}\n"


def encode_sealed_entry(*, type_: str, id_: str, date: int, tz: str, sealed: bytes, size: int, etag: bytes) -> bytes:
    """Return what `encode_entry` does for an entry whose form is an envelope around base64. Texts MUST be plain ASCII.

    `etag` is without its quotes.
    """
    return b'{"type":%b,"id":"%b","date":%d,"tz":%b,"form":{"encrypted":"%b"},"size":%d,"etag":"\\"%b\\""}\n' % (
        _word(type_),
        id_.encode(),
        date,
        _word(tz),
        sealed,
        size,
        etag,
    )


def encode_page(
    lines: Iterable[bytes],
    *,
    remaining: int,
    metadata_url: str,
    fetch_url: str,
    closed: int | None = None,
    unserved: Unserved | None = None,
    unscanned_since: int | None = None,
    vault: bytes | None = None,
    bulk: int | None = None,
) -> bytes:
    """Return a whole list page of encoded entries; the URLs are templates with `%file_id%` and `%token%`."""
    header: dict[str, Any] = {
        "metadataUrlTemplate": metadata_url,
        "fetchUrlTemplate": fetch_url,
        "remainingSince": remaining,
    }
    if closed is not None:
        header["closed"] = closed
    if unserved is not None:
        header["unserved"] = asdict(unserved)
    if unscanned_since is not None:
        header["unscannedSince"] = unscanned_since
    if vault is not None:
        header["vault"] = vault.hex()
    if bulk is not None:
        header["bulk"] = bulk
    return json.dumps(header, separators=(",", ":")).encode() + b"\n\n" + b"".join(lines)


def _lines(body: bytes | bytearray, at: int) -> Iterator[bytes | bytearray]:
    """Yield the lines from this place on, one at a time; the body ends in a newline."""
    while at < len(body):
        end = body.index(b"\n", at)
        yield body[at:end]
        at = end + 1


def _parse_header(head: bytes | bytearray) -> Page:
    """Return what a page's header line says, as a page without entries."""
    if len(head) > MAX_LINE_BYTES:
        raise BadPageError("bad_header")
    try:
        header = orjson.loads(head)
    except orjson.JSONDecodeError:
        raise BadPageError("bad_header") from None
    if not isinstance(header, dict):
        raise BadPageError("bad_header")
    remaining, closed, since = (header.get(name) for name in ("remainingSince", "closed", "unscannedSince"))
    if type(remaining) is not int or remaining < 0:
        raise BadPageError("bad_header")
    if not all(second is None or _is_date(second) for second in (closed, since)):
        raise BadPageError("bad_header")
    return Page(
        entries=(),
        rejected=(),
        remaining=remaining,
        closed=closed,
        unserved=_unserved(header.get("unserved")),
        unscanned_since=since,
        vault=_vault(header.get("vault")),
        is_bulk=header.get("bulk") == BULK_VERSION,
    )


def _unserved(value: Any) -> Unserved | None:
    """Return what is not served, according to a header. Kinds that it does not name count 0."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadPageError("bad_header")
    counts = {name: value.get(name, 0) for name in Unserved.__struct_fields__}
    if not all(type(count) is int and _is_size(count) for count in counts.values()):
        raise BadPageError("bad_header")
    return Unserved(**counts)


def _vault(value: Any) -> bytes | None:
    try:
        return parse_vault(value)
    except ValueError:
        raise BadPageError("bad_header") from None


def _entry(value: Any) -> Listed | Rejected:
    """Return the entry in a decoded JSON value, or why it is not one."""
    if not isinstance(value, dict):
        return Rejected(line=1, why="not_an_object")
    told: Callable[[str], Any] = value.get
    date, kind, id_, tz, size, etag = told("date"), told("type"), told("id"), told("tz"), told("size"), told("etag")
    if not _is_date(date):
        return Rejected(line=1, why="bad_date")
    form, header = _form(told("form"))
    # A form of `sc2` names its element and version, and what it names is well-formed.
    is_its_id = header is not None and id_ == element_in(header)
    is_its_etag = header is not None and etag == etag_in(header)
    if not _is_type(kind):
        why = "bad_type"
    elif not (is_its_id or _is_id(id_)):
        why = "bad_id"
    elif not _is_word(tz):
        why = "bad_tz"
    elif not _is_size(size):
        why = "bad_size"
    elif not (is_its_etag or _is_etag(etag)):
        why = "bad_etag"
    elif form is None:
        why = "bad_form"
    elif header is not None and not (is_its_id and (is_its_etag or etag is None)):
        why = "other_form"
    else:
        return Listed(type=kind, id=id_, date=date, tz=tz, form=form, size=size, etag=etag, header=header)
    return Rejected(line=1, why=why, date=date)


def _form(form: Any) -> tuple[bytes | None, bytes | None]:
    """Return the form as canonical JSON, and the clear header if it is one of `sc2`; None for whichever is missing.

    There is no form if it is missing, too big or too deep, or if it begins like one of `sc2` but is not one. The
    restorer checks the shape of the others.
    """
    if type(form) is dict and len(form) == 1 and type(sealed := form.get("encrypted")) is str:
        if is_list_form(sealed):
            try:
                header = clear_header(sealed)
            except RefusedError:
                return None, None
            return b'{"encrypted":"%b"}' % sealed.encode(), header
        if len(sealed) < MAX_FORM_BYTES and _BASE64.fullmatch(sealed):
            return b'{"encrypted":"%b"}' % sealed.encode(), None
    if form is None or not _is_shallow(form, _DEEPEST):
        return None, None
    try:
        canonical = canonical_json(form)
    except ValueError:
        return None, None
    is_fine = len(canonical) <= MAX_FORM_BYTES and not is_like_sealed(canonical)
    return (canonical if is_fine else None), None


def _is_date(value: Any) -> TypeGuard[int]:
    return type(value) is int and MIN_DATE <= value <= MAX_DATE


def _is_word(value: Any) -> TypeGuard[str]:
    return type(value) is str and len(value) <= MAX_WORD and "\0" not in value


def _is_id(value: Any) -> TypeGuard[str]:
    """Return whether this can be an id: "." and ".." cannot, since no URL can hold them as a segment of its path."""
    if type(value) is not str or value in {"", ".", ".."} or len(value) > MAX_ID_BYTES or "\0" in value:
        return False
    return value.isascii() or len(value.encode()) <= MAX_ID_BYTES


def _is_type(value: Any) -> TypeGuard[str]:
    """Return whether this can be a type; those that begin with an "@" are the ledger's own."""
    return type(value) is str and 0 < len(value) <= MAX_WORD and "\0" not in value and value[0] != "@"


def _is_size(value: Any) -> TypeGuard[int | None]:
    return value is None or (type(value) is int and 0 <= value <= MAX_SIZE)


def _is_etag(value: Any) -> TypeGuard[str | None]:
    return value is None or (type(value) is str and len(value) <= MAX_ETAG and _ETAG.fullmatch(value) is not None)


@lru_cache(maxsize=64)
def _word(value: str) -> bytes:
    """Return a text that is in every line."""
    return _text(value)


def _text(value: str) -> bytes:
    # For ASCII both write the same.
    return orjson.dumps(value) if value.isascii() else json.dumps(value).encode()


def _is_shallow(value: Any, left: int) -> bool:
    """Return whether a decoded JSON value is nested no deeper than this."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return left > 0 and all(_is_shallow(each, left - 1) for each in inner)
