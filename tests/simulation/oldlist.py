"""A drained list: the lister in conversation with the old server's repository, in this process and without sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from kropot.lister.conversation import ListingResult, NewEntries, PageRequest, Trouble
from kropot.lister.drain import Range, drain
from kropot.securecopy.wire import BadPageError, Listed, Page, parse_page
from tests.oldserver import OldServer, Request

if TYPE_CHECKING:
    from collections.abc import Callable

AGENT = ("User-Agent", "test")


def list_request(token: str, ask: PageRequest) -> Request:
    """Return a question as the request that the client makes of it."""
    query = {"limit": str(ask.limit)} if ask.since is None else {"since": ask.since, "limit": str(ask.limit)}
    return Request(
        number=0,
        visit=0,
        method="GET",
        path="/secure-copy/file/list",
        query=urlencode(query),
        headers=(("token", token), AGENT),
    )


def ask_page(server: OldServer, ask: PageRequest) -> Page | Trouble:
    """Return the server's answer to a question, read as the client reads it."""
    answer, _ = server.respond(list_request(server.token, ask))
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    try:
        return parse_page(answer.status, answer.content_type, body)
    except BadPageError as error:
        return Trouble(reason=error.reason, status=answer.status)


@dataclass
class Listening:
    """What a listing handed on, and every question that it asked."""

    entries: list[Listed] = field(default_factory=list)
    asked: list[PageRequest] = field(default_factory=list)
    rejected: int = 0
    drained: ListingResult | None = None

    @property
    def ids(self) -> set[str]:
        return {entry.id for entry in self.entries}

    @property
    def result(self) -> ListingResult:
        assert self.drained is not None
        return self.drained


def listen(
    server: OldServer,
    wanted: Range | None = None,
    *,
    before: Callable[[int, PageRequest], None] = lambda _number, _ask: None,
    answer: Callable[[PageRequest], Page | Trouble] | None = None,
    most: int = 5000,
) -> Listening:
    """Drain a list; `before` is called with the number of each question (from 1) before it is answered.

    Raises: AssertionError if it takes more than `most` questions; ListingFailedError.
    """
    heard = Listening()
    talk = drain(wanted or Range())
    sent: Page | Trouble | None = None
    while True:
        try:
            said = talk.send(sent)
        except StopIteration as end:
            heard.drained = end.value
            return heard
        if isinstance(said, NewEntries):
            heard.entries += said.entries
            heard.rejected += len(said.rejected)
            sent = None
            continue
        heard.asked.append(said)
        assert len(heard.asked) <= most, "the listing does not end"
        before(len(heard.asked), said)
        sent = ask_page(server, said) if answer is None else answer(said)
