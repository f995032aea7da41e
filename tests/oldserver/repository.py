"""The File Repository of 2020 without its sockets: rows, tokens and answers, wrong where the real one is wrong."""

from __future__ import annotations

import gzip
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from kropot.securecopy.sealing import Kit, element_id, seal_form, seal_stream
from tests.oldserver.php import (
    error_page,
    int_cast,
    json_compact,
    json_pretty,
    moment_of,
    parse_wall,
    wall_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 64 * 1024
MAX_LIMIT = 8192
HTML = "text/html; charset=UTF-8"
JSON = "application/json"
LIST = "text/plain; charset=UTF-8"
BINARY = "application/octet-stream"
IV_HEADER = "Encryption-Initialization-Vector"

_ALLOWED_NAME = re.compile(r"[A-Za-z0-9._\-+ ()@!\[\],$]+")
_NOT_IN_MAP = (
    "Not found: Invalid element id, not found in CryptoMap, "
    "you need to provide a valid one from the replication list endpoint"
)
_UNKNOWN_TOKEN = "Invalid authorization. Details: Invalid token, cannot find token id in the persistent database"
_NO_ROLE = "Current token does not allow to replicate the data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What is wrong with the server, each as a switch; the defaults are the server of 2020 as it was observed."""

    strict_since: bool = True
    """`>` at a second's resolution; off: `>=`."""
    unconverted_since: bool = True
    """The offset of `since` is ignored; off: it is taken as a moment."""
    inclusive_remaining: bool = True
    """remainingSince counts the cursor's own second and the page; off: what comes after the page."""
    wrong_templates: bool = True
    """Both URL templates point to submitdata and miss a percent sign; off: as they were meant."""
    base_url_known: bool = True
    """off: the templates are relative."""
    cookies: bool = True
    """Every cookieless answer sets PHPSESSID, and requests that share one wait for each other."""
    leaks_names: bool = True
    """Content-Disposition carries the plain file name, for encrypted tokens too."""
    always_chunked: bool = True
    """off: Content-Length."""
    plain_content_fails: bool = True
    """A plain token's contents are always 500; off: they are served."""
    wants_user_agent: bool = True
    """500 without one."""
    query_token_first: bool = True
    """A token in the query beats the headers."""
    gzips_pages: bool = True
    """HTML pages with 403 and 404 are compressed for those who accept it."""
    validates_names: bool = True
    """One row with a bad name or an empty zone turns its page into a 500; off: any name is listed."""
    encrypted_page_cap: int | None = 2048
    """More encrypted rows than this take longer than PHP allows: 500."""
    content_time_limit: int | None = None
    """Ciphertexts longer than this are cut here, and the error page follows."""


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """A file as the database and the disk have it; `wall` is the stored date, read as if it were UTC."""

    number: int
    name: str
    wall: int
    tz: str
    content: bytes | Generated | None
    tags: tuple[str, ...] = ()
    password: str = ""
    public: bool = True
    eio_at: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generated:
    """A content of `size` bytes that is made while it is sent; the same seed makes the same bytes."""

    size: int
    seed: int = 0

    def chunks(self) -> Iterator[bytes]:
        block = Random(self.seed).randbytes(CHUNK)
        for start in range(0, self.size, CHUNK):
            yield block[: min(CHUNK, self.size - start)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token: its kit if it encrypts, the salt as the database has it, what it may do and until when."""

    id: str
    kit: Kit | None
    stored_salt: str
    roles: frozenset[str] = frozenset({"securecopy.stream"})
    expires: int | None = None
    allowed_user_agents: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came: its number (from 1), and how often its path was asked before, this time included."""

    number: int
    visit: int
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def kind(self) -> str:
        """One of "list", "submitdata", "content", "other"."""
        last = self.path.rpartition("/")[2]
        return last if last in {"list", "submitdata", "content"} and self.path.startswith("/secure-copy/") else "other"

    @property
    def id(self) -> str:
        """The element's id in the path, "" without one."""
        parts = self.path.split("/")
        return unquote(parts[3]) if self.kind in {"submitdata", "content"} and len(parts) == 5 else ""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer before it is framed; a body is bytes or chunks that are made while they are sent."""

    status: int
    content_type: str
    body: bytes | Iterator[bytes]
    headers: tuple[tuple[str, str], ...] = ()
    session: bool = True

    def with_body(self, body: bytes | Iterator[bytes]) -> Answer:
        return replace(self, body=body)

    def with_header(self, name: str, value: str | None) -> Answer:
        """Return it with this header instead of one of that name; None takes it away."""
        if name.lower() == "content-type" and value is not None:
            return replace(self, content_type=value)
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name, value)))


def page_answer(status: int, *headers: tuple[str, str], session: bool = True) -> Answer:
    return Answer(status=status, content_type=HTML, body=error_page(status), headers=headers, session=session)


def json_answer(status: int, body: bytes) -> Answer:
    return Answer(status=status, content_type=JSON, body=body)


class Repository:
    """The rows and tokens of one server and what it answers; `clock` gives its seconds since 1970. Not thread-safe."""

    def __init__(self, *, clock: Callable[[], int], zone: str, quirks: Quirks, rng: Random) -> None:
        self.clock = clock
        self.zone = zone
        self.quirks = quirks
        self.rng = rng
        self.base_url = ""
        self.tokens: dict[str, Token] = {}
        self.by_name: dict[str, Row] = {}
        self.crypto_map: dict[str, str] = {}
        self.listed_as: dict[str, str] = {}
        self._rows: list[Row] = []
        self._walls: list[int] = []
        self._sorted = True
        self._numbers = 0

    # --- what a test or an uploader does ---

    def add(self, name: str, content: bytes | Generated, *, at: int, tz: str | None = None, **rest: Any) -> Row:
        """Add a row dated `at` (seconds since 1970) by the server's wall; a name can be there once only."""
        if name in self.by_name:
            raise ValueError(f"{name} is there already")
        self._numbers += 1
        zone = self.zone if tz is None else tz
        row = Row(number=self._numbers, name=name, wall=wall_of(at, zone or "UTC"), tz=zone, content=content, **rest)
        self.by_name[name] = row
        self._sorted = False
        return row

    def delete(self, name: str) -> None:
        del self.by_name[name]
        self._sorted = False

    def touch(self) -> None:
        """Say that dates of rows were changed by hand."""
        self._sorted = False

    def id_for(self, token: Token, row: Row) -> str:
        """Return the id under which a token sees a row."""
        if "id" in row.overrides:
            return str(row.overrides["id"])
        if token.kit is None:
            return row.name
        return element_id(token.stored_salt, row.name.encode(), token.kit.digest)

    # --- what it answers ---

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request, as nginx would send it on."""
        found = self._route(request)
        if self.quirks.gzips_pages and found.status in {403, 404} and found.content_type == HTML:
            accepted = request.header("accept-encoding") or ""
            if "gzip" in accepted and isinstance(found.body, bytes):
                found = found.with_body(gzip.compress(found.body)).with_header("Content-Encoding", "gzip")
        return found

    def _route(self, request: Request) -> Answer:
        """Return the answer of the router, or of the token, or of the action behind both."""
        match request.path.split("/")[1:]:
            case ["secure-copy", kind, "list"]:
                element, action = kind, "list"
            case ["secure-copy", "file", element, "submitdata" | "content" as action]:
                pass
            case _:
                return replace(page_answer(404), session=False)
        if request.method not in {"GET", "HEAD"}:
            return page_answer(405, ("Allow", "GET"), session=False)
        if self.quirks.wants_user_agent and request.header("user-agent") is None:
            return page_answer(500)
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        token = self._token(request, query)
        return token if isinstance(token, Answer) else self._act(action, element, query, token)

    def _act(self, action: str, element: str, query: dict[str, str], token: Token) -> Answer:
        if not token.roles & {"securecopy.stream", "security.administrator"}:
            body = {"status": _NO_ROLE, "error_code": 403, "http_code": 403}
            return json_answer(403, json_pretty(body)) if action == "list" else page_answer(500)
        if action == "list":
            return self._list(element, query, token)
        if action == "submitdata":
            return self._submitdata(unquote(element), token, raw=query.get("raw") in {"true", "1"})
        return self._content(unquote(element), token)

    def _token(self, request: Request, query: dict[str, str]) -> Token | Answer:
        places = [query.get("_token"), request.header("token"), request.header("x-auth-token")]
        if not self.quirks.query_token_first:
            places = [*places[1:], places[0]]
        given = next((place for place in places if place is not None), None)
        if given is None:
            return page_answer(403)
        token = self.tokens.get(given)
        if token is None:
            return json_answer(403, json_compact({"status": _UNKNOWN_TOKEN, "error_code": 403, "http_code": 403}))
        agent = request.header("user-agent") or ""
        if token.expires is not None and token.expires <= self.clock():
            return page_answer(403)
        if token.allowed_user_agents and agent not in token.allowed_user_agents:
            return page_answer(403)
        return token

    def _list(self, kind: str, query: dict[str, str], token: Token) -> Answer:
        limit = int_cast(query["limit"]) if "limit" in query else 256
        if limit <= 0 or limit >= MAX_LIMIT:
            why = "Invalid limit specified" if limit <= 0 else "Cannot serve more than 8192 entries"
            fields = {"status": "Validation error", "http_code": 400, "exit_code": 400, "fields": {"limit": why}}
            return json_answer(400, json_pretty(fields))
        text = query.get("since", "")
        since = None
        if any(key.startswith("since[") for key in query):
            return page_answer(500)
        if text not in {"", "0"}:
            since = parse_wall(text, self.clock(), self.zone)
            if since is None:
                return page_answer(500)
            if not self.quirks.unconverted_since and text.startswith("@"):
                since = wall_of(since, self.zone)
        rows, remaining = self._select(kind, since, limit)
        cap = self.quirks.encrypted_page_cap
        if token.kit is not None and cap is not None and len(rows) > cap:
            return page_answer(500)
        if self.quirks.validates_names and any(_is_poison(row) for row in rows):
            return page_answer(500)
        body = self._header(remaining) + b"".join(json_compact(self._entry(token, row)) + b"\n" for row in rows)
        disposition = ("Content-Disposition", 'attachment; filename="securecopy-list.jstream"')
        return Answer(status=200, content_type=LIST, body=body, headers=(disposition,))

    def _select(self, kind: str, since: int | None, limit: int) -> tuple[list[Row], int]:
        """Return the rows of a page and remainingSince."""
        if kind != "file":
            return [], 0
        if not self._sorted:
            self._rows = sorted(self.by_name.values(), key=lambda row: (row.wall, row.number))
            self._walls = [row.wall for row in self._rows]
            self._sorted = True
        inclusive = 0 if since is None else bisect_left(self._walls, since)
        everything = since is None or not self.quirks.strict_since
        start = inclusive if everything else bisect_right(self._walls, since)
        rows = self._rows[start : start + limit]
        if self.quirks.inclusive_remaining:
            return rows, len(self._rows) - inclusive
        return rows, len(self._rows) - start - len(rows)

    def _header(self, remaining: int) -> bytes:
        base = self.base_url if self.quirks.base_url_known else ""
        if self.quirks.wrong_templates:
            wrong = f"{base}/secure-copy/file/%file_id/submitdata?_token=%token%"
            templates = wrong, wrong
        else:
            stem = f"{base}/secure-copy/file/%file_id%/"
            templates = f"{stem}submitdata?_token=%token%", f"{stem}content?_token=%token%"
        header = {
            "metadataUrlTemplate": templates[0],
            "fetchUrlTemplate": templates[1],
            "remainingSince": remaining,
        }
        return json_compact(header) + b"\n\n"

    def _entry(self, token: Token, row: Row) -> dict[str, Any]:
        """Return a row as it is listed; an encrypted id is remembered in the crypto map."""
        id_ = self.id_for(token, row)
        form: dict[str, Any] = {
            "backUrl": "",
            "fileOverwrite": False,
            "tags": list(row.tags),
            "password": row.password,
            "public": row.public,
            "fileName": row.name,
            "stripInvalidCharacters": False,
        }
        if token.kit is not None:
            form = {"encrypted": seal_form(json_compact(form), token.kit, self.rng.randbytes(16))}
        if "id" in row.overrides:
            self.listed_as[id_] = row.name
        elif token.kit is not None:
            self.crypto_map[id_] = row.name
        entry = {"type": "file", "id": id_, "date": moment_of(row.wall, self.zone), "tz": row.tz, "form": form}
        return {**entry, **row.overrides}

    def _find(self, id_: str, token: Token) -> tuple[Row | None, bool]:
        """Return the row behind an id, and whether the id can be one at all."""
        if id_ in self.listed_as:
            return self.by_name.get(self.listed_as[id_]), True
        if token.kit is not None:
            name = self.crypto_map.get(id_)
            return (None if name is None else self.by_name.get(name)), name is not None
        return self.by_name.get(id_), True

    def _submitdata(self, id_: str, token: Token, *, raw: bool) -> Answer:
        plain_name = token.kit is None and id_ not in self.listed_as
        if plain_name and self.quirks.validates_names and not _ALLOWED_NAME.fullmatch(id_):
            return page_answer(500)
        row, known = self._find(id_, token)
        if row is None:
            status = "Not found" if known else _NOT_IN_MAP
            gone = {"status": status, "http_code": 404, "object": None}
            return json_answer(404, b"{}" if raw else json_compact(gone))
        if self.quirks.validates_names and _is_poison(row):
            return page_answer(500)
        entry = self._entry(token, row)
        whole = entry if raw else {"status": "OK", "http_code": 200, "object": entry}
        return json_answer(200, json_compact(whole))

    def _content(self, id_: str, token: Token) -> Answer:
        row, _ = self._find(id_, token)
        if row is None or row.content is None or (token.kit is None and self.quirks.plain_content_fails):
            return page_answer(500)
        headers = []
        if self.quirks.leaks_names:
            headers.append(("Content-Disposition", f'attachment; filename="{row.name}"'))
        plain: Iterator[bytes] = iter((row.content,)) if isinstance(row.content, bytes) else row.content.chunks()
        body: bytes | Iterator[bytes]
        if token.kit is None:
            body = row.content if isinstance(row.content, bytes) else plain
        else:
            iv = self.rng.randbytes(16)
            headers.append((IV_HEADER, iv.hex()))
            body = seal_stream(plain, token.kit.key(iv), iv)
            if isinstance(row.content, bytes):
                body = b"".join(body)
        if row.eio_at == 0:
            return page_answer(500, *headers)
        broken_at = min((at for at in (row.eio_at, self.quirks.content_time_limit) if at is not None), default=None)
        if broken_at is not None:
            body = _broken_off(body, broken_at)
        return Answer(status=200, content_type=BINARY, body=body, headers=tuple(headers))


def first_bytes(body: bytes | Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a body."""
    for chunk in (body,) if isinstance(body, bytes) else body:
        yield chunk[:size]
        size -= len(chunk)
        if size <= 0:
            return


def _broken_off(body: bytes | Iterator[bytes], at: int) -> bytes | Iterator[bytes]:
    """Return a body that fails at this byte, if it gets there: the error page follows what was sent."""
    if isinstance(body, bytes):
        return body if len(body) <= at else body[:at] + error_page(500)
    return _breaking_off(body, at)


def _breaking_off(body: Iterator[bytes], at: int) -> Iterator[bytes]:
    sent = 0
    for chunk in body:
        if sent + len(chunk) > at:
            yield chunk[: at - sent]
            yield error_page(500)
            return
        sent += len(chunk)
        yield chunk


def _is_poison(row: Row) -> bool:
    return row.tz == "" or not _ALLOWED_NAME.fullmatch(row.name)
