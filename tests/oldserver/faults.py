"""What can go wrong between the server's answer and the client, as values; and plans that say when.

A fault changes the answer (its status, head, body), its delivery (framing, pace, where it breaks), or both. A plan is
a function of the request, so a run with the same requests meets the same faults: `visit` counts how often a path was
asked, which no scheduling of threads can change.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Literal

from tests.oldserver.php import error_page
from tests.oldserver.repository import HTML, IV_HEADER, LIST, Answer, Request, first_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How an answer goes over the wire; offsets count the body's bytes, those of `head_cut_at` the head's."""

    framing: Literal["chunked", "length", "close"] | None = None
    told_length: int | None = None
    delay_s: float = 0.0
    cut_at: int | None = None
    head_cut_at: int | None = None
    reset: bool = False
    stall_at: int | None = None
    stall_s: float = 0.0
    piece: int | None = None
    pause_s: float = 0.0
    raw: bytes | None = None
    chunk_header: bytes | None = None
    end: bytes | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the answer just goes out."""
        return self == _PLAIN


_PLAIN = Delivery()


class Fault:
    """The base of all faults: changes nothing."""

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002 - the interface
        """Return the answer as it is given instead."""
        return answer

    def deliver(self, delivery: Delivery, rng: Random) -> Delivery:  # noqa: ARG002 - the interface
        """Return the delivery as it is made instead."""
        return delivery


Plan = Callable[[Request], Fault | None]
"""Says, for each request, which fault meets it."""


# --- faults of the answer --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Both(Fault):
    """Two faults, the first one first."""

    first: Fault
    second: Fault

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:
        return self.second.alter(self.first.alter(answer, request, rng), request, rng)

    def deliver(self, delivery: Delivery, rng: Random) -> Delivery:
        return self.second.deliver(self.first.deliver(delivery, rng), rng)


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """Any status with its error page; `keep_head` leaves the headers of success (an IV on a 500)."""

    status: int
    keep_head: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        kept = answer.headers if self.keep_head else ()
        return Answer(
            status=self.status, content_type=HTML, body=error_page(self.status), headers=(*kept, *self.headers)
        )


@dataclass(frozen=True, slots=True)
class HtmlWithStatus200(Fault):
    """The error page with status 200; with `in_disguise` under the type and headers of the right answer."""

    in_disguise: bool = False

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        page = error_page(500)
        if self.in_disguise:
            return replace(answer.with_body(page), status=200)
        return Answer(status=200, content_type=HTML, body=page)


@dataclass(frozen=True, slots=True)
class HtmlAppended(Fault):
    """The body breaks off after `after` bytes and the error page follows, behind a clean end.

    With `whole_blocks` the page is padded with blanks so that the total is a multiple of 16.
    """

    after: int
    whole_blocks: bool = False

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        page = error_page(500)

        def body() -> Iterator[bytes]:
            sent = 0
            for chunk in first_bytes(answer.body, self.after):
                sent += len(chunk)
                yield chunk
            yield page
            if self.whole_blocks:
                yield b"\n" * (-(sent + len(page)) % 16)

        return answer.with_body(body())


@dataclass(frozen=True, slots=True)
class Head(Fault):
    """A header is set to this, or taken away (None)."""

    name: str
    value: str | None

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        return answer.with_header(self.name, self.value)


def iv_missing() -> Fault:
    return Head(IV_HEADER, None)


def iv_not_hex() -> Fault:
    return Head(IV_HEADER, "this is not an initialization vector"[:32])


def iv_on_a_500() -> Fault:
    return Status(500, keep_head=True)


@dataclass(frozen=True, slots=True)
class Redirect(Fault):
    """The answer lies elsewhere."""

    target: str
    status: int = 302

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        return Answer(status=self.status, content_type=HTML, body=b"", headers=(("Location", self.target),))


@dataclass(frozen=True, slots=True)
class Body(Fault):
    """Another body under the same head."""

    body: bytes

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        return answer.with_body(self.body)


@dataclass(frozen=True, slots=True)
class Shortened(Fault):
    """Only the first bytes, behind a clean end: as if the file were shorter."""

    size: int

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        return answer.with_body(b"".join(first_bytes(answer.body, self.size)) if self.size else b"")


@dataclass(frozen=True, slots=True)
class BitFlip(Fault):
    """One bit of the body is another one."""

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        whole = bytearray(answer.body if isinstance(answer.body, bytes) else b"".join(answer.body))
        if whole:
            whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        return answer.with_body(bytes(whole))


@dataclass(frozen=True, slots=True)
class Endless(Fault):
    """The body never ends: the right bytes first, then the same byte for ever."""

    filler: bytes = b"\n" * 65536

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        def body() -> Iterator[bytes]:
            yield from (answer.body,) if isinstance(answer.body, bytes) else answer.body
            while True:
                yield self.filler

        return answer.with_body(body())


@dataclass(frozen=True, slots=True)
class GzipBomb(Fault):
    """A body that nobody asked to be compressed, and that grows a thousandfold: `size` bytes when opened."""

    size: int = 1 << 30

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        # A gzip stream may have many members. Compressing one of them does not keep the server from sending the head.
        block = bytes(1 << 20)
        member = gzip.compress(block)
        body = (member for _ in range(self.size // len(block)))
        return replace(answer.with_body(body), status=200).with_header("Content-Encoding", "gzip")


@dataclass(frozen=True, slots=True)
class Lines(Fault):
    """The lines of a list page, changed by a function; answers that are no list stay as they are."""

    change: Callable[[list[bytes], Random], list[bytes]]

    def alter(self, answer: Answer, request: Request, rng: Random) -> Answer:  # noqa: ARG002
        if answer.content_type != LIST or not isinstance(answer.body, bytes):
            return answer
        head, _, rest = answer.body.partition(b"\n\n")
        lines = self.change(lines_of(rest), rng)
        return answer.with_body(head + b"\n\n" + b"".join(lines))


def lines_of(page: bytes) -> list[bytes]:
    """Return the lines of a page, each with its newline if it has one; no other byte ends a line."""
    return re.findall(rb"[^\n]*\n|[^\n]+", page)


def garbage_line() -> Fault:
    """One line, somewhere, is noise; no entry is missing."""
    return Lines(lambda lines, rng: _inserted(lines, rng, rng.randbytes(60).replace(b"\n", b" ") + b"\n"))


def truncated_line() -> Fault:
    """One line ends in its middle."""

    def change(lines: list[bytes], rng: Random) -> list[bytes]:
        if lines:
            at = rng.randrange(len(lines))
            lines[at] = lines[at][: rng.randrange(1, len(lines[at]) - 1)] + b"\n"
        return lines

    return Lines(change)


def page_cut_in_a_line() -> Fault:
    """The page ends within its last line, behind a clean end."""
    return Lines(lambda lines, rng: [*lines[:-1], lines[-1][: rng.randrange(1, len(lines[-1]))]] if lines else lines)


def page_cut_between_lines() -> Fault:
    """The second half of the page is missing, behind a clean end: nothing tells."""
    return Lines(lambda lines, _: lines[: len(lines) // 2])


def duplicated_lines() -> Fault:
    return Lines(lambda lines, rng: [copy for line in lines for copy in [line] * rng.randint(2, 3)])


def reordered_lines() -> Fault:
    return Lines(lambda lines, rng: rng.sample(lines, len(lines)))


def extra_line(line: bytes) -> Fault:
    """This line stands somewhere among the others."""
    return Lines(lambda lines, rng: _inserted(lines, rng, line.rstrip(b"\n") + b"\n"))


def _inserted(lines: list[bytes], rng: Random, line: bytes) -> list[bytes]:
    lines.insert(rng.randint(0, len(lines)), line)
    return lines


# --- faults of the delivery ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way(Fault):
    """The answer is delivered with these settings instead."""

    settings: Callable[[Delivery], Delivery]

    def deliver(self, delivery: Delivery, rng: Random) -> Delivery:  # noqa: ARG002
        return self.settings(delivery)


def cut(at: int, *, reset: bool = False) -> Fault:
    """The connection is closed, or reset, after this many bytes of the body, without the end of the transfer."""
    return Way(lambda way: replace(way, cut_at=at, reset=reset))


def cut_in_head(at: int, *, reset: bool = False) -> Fault:
    """The connection is closed, or reset, after this many bytes of the head."""
    return Way(lambda way: replace(way, head_cut_at=at, reset=reset))


def no_answer(*, reset: bool = False) -> Fault:
    return cut_in_head(0, reset=reset)


def close_delimited(*, cut_at: int | None = None) -> Fault:
    """No framing at all: the body ends where the connection does; with `cut_at`, too early."""
    return Way(lambda way: replace(way, framing="close", cut_at=cut_at))


def with_length(told: int | None = None) -> Fault:
    """Content-Length instead of chunks; with `told`, a wrong one."""
    return Way(lambda way: replace(way, framing="length", told_length=told))


def stall(at: int, seconds: float) -> Fault:
    """Nothing comes for a while after this many bytes of the body."""
    return Way(lambda way: replace(way, stall_at=at, stall_s=seconds))


def slow_start(seconds: float) -> Fault:
    return Way(lambda way: replace(way, delay_s=seconds))


def drip(piece: int = 1, pause_s: float = 0.01) -> Fault:
    """The body comes in small pieces with pauses between them."""
    return Way(lambda way: replace(way, piece=piece, pause_s=pause_s))


def not_http(raw: bytes = b"SSH-2.0-OpenSSH_9.2\r\n") -> Fault:
    return Way(lambda way: replace(way, raw=raw))


def bad_chunk() -> Fault:
    """The first chunk's size is no number."""
    return Way(lambda way: replace(way, framing="chunked", chunk_header=b"zz\r\n"))


def cut_in_end(shown: bytes = b"0") -> Fault:
    """The chunked body breaks off in its end mark, after these bytes; they may as well begin a further chunk's size."""
    return Way(lambda way: replace(way, framing="chunked", end=shown))


# --- plans -----------------------------------------------------------------------------------------------------------


def always(fault: Fault, *kinds: str) -> Plan:
    """Return a plan: this fault for every request of these kinds (all, if none is named)."""
    return lambda request: fault if not kinds or request.kind in kinds else None


def first_visits(count: int, fault: Fault, *kinds: str) -> Plan:
    """Return a plan: this fault for the first `count` requests of every path, then none."""
    return lambda request: fault if request.visit <= count and (not kinds or request.kind in kinds) else None


def numbered(faults: dict[int, Fault]) -> Plan:
    """Return a plan: a fault for the requests with these numbers, counted from 1."""
    return lambda request: faults.get(request.number)


def for_ids(faults: dict[str, Fault], kind: str = "content") -> Plan:
    """Return a plan: a fault for every request of `kind` for these ids."""
    return lambda request: faults.get(request.id) if request.kind == kind else None


def seeded(seed: int, rate: float, faults: Sequence[Fault], *kinds: str, visits: int | None = None) -> Plan:
    """Return a plan: one of the faults with probability `rate`, the same one for the same path and visit.

    After `visits` visits a path is left alone, so that a run can come to its end.
    """

    def plan(request: Request) -> Fault | None:
        if (kinds and request.kind not in kinds) or (visits is not None and request.visit > visits):
            return None
        rng = Random(f"{seed} {request.path}?{request.query} {request.visit}")
        return rng.choice(faults) if rng.random() < rate else None

    return plan


BORNE_FAULTS: tuple[Fault, ...] = (drip(piece=7, pause_s=0.0), stall(8, 0.02))
"""What is only slow: the content is sound."""

CONTENT_FAULTS: tuple[Fault, ...] = (
    Status(500),
    Status(502),
    Status(503),
    iv_on_a_500(),
    HtmlWithStatus200(),
    HtmlWithStatus200(in_disguise=True),
    HtmlAppended(after=0),
    HtmlAppended(after=16),
    HtmlAppended(after=10),
    HtmlAppended(after=16, whole_blocks=True),
    iv_missing(),
    iv_not_hex(),
    Head("Content-Type", "text/html"),
    Head("Content-Encoding", "gzip"),
    Body(b""),
    Shortened(15),
    no_answer(),
    no_answer(reset=True),
    cut_in_head(40),
    cut(0),
    cut(1, reset=True),
    cut(16),
    close_delimited(),
    close_delimited(cut_at=16),
    with_length(told=1 << 20),
    Both(Shortened(16), cut_in_end(b"0")),
    Both(Shortened(16), cut_in_end(b"0\r\n")),
    cut_in_end(b""),
    bad_chunk(),
    not_http(),
    *BORNE_FAULTS,
)
"""Faults of a content answer that a client can notice without the key, and those that it has to bear."""

LIST_FAULTS: tuple[Fault, ...] = (
    Status(500),
    Status(502),
    HtmlWithStatus200(),
    HtmlWithStatus200(in_disguise=True),
    garbage_line(),
    truncated_line(),
    page_cut_in_a_line(),
    duplicated_lines(),
    no_answer(),
    no_answer(reset=True),
    cut(10),
    cut(300, reset=True),
    close_delimited(cut_at=300),
    Both(page_cut_between_lines(), cut_in_end(b"0")),
    bad_chunk(),
    not_http(),
    drip(piece=97, pause_s=0.0),
    stall(8, 0.02),
)
"""Faults of a list answer that a client can notice, and some that it has to bear."""
