"""Which source a token belongs to: finds it, or begins it. The ledger never forgets a source, so this is careful."""

from __future__ import annotations

import hmac
import secrets
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kropot.collect.decide.sources import begin, match_source, moved, source_key
from kropot.errors import UsageError
from kropot.query.names import long_name, short_name
from kropot.query.past import labels_of
from kropot.securecopy.client import ServerTroubleError
from kropot.wording import moment
from ledger.append import NewFact
from ledger.codec import source_id_of
from ledger.errors import ConflictError, LedgerError
from ledger.keeping import keeping_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.securecopy.client import ServerAccess
    from ledger.answers import SourceEntry
    from ledger.log import Ledger

LONGEST_TRIAL_S: Final = 10
"""How long the server may take to say whether it knows a new token. After that the collector itself finds out."""


def find_source(server: ServerAccess, ledger: Ledger, *, new_source: bool, say: Callable[[str], None]) -> bytes:
    """Return the id of this token's source, and begin the source if the token is new.

    `new_source` begins a new one for a token that is known from another address. `say` takes a sentence for the user.

    Raises:
        UsageError: the token is known from another server, or its source retired.
        ServerRefusedError: the token is new, and the server refuses it.
    """
    url, token = server.url, server.token.reveal()
    known = ledger.sources()
    match = match_source(known, token, url)
    if match.kind == "moved" and match.id is not None and not new_source:
        name = shlex.quote(short_name(labels_of(ledger), match.id))
        raise UsageError(
            f"this token is known from {known[match.id].source.url}, not from {url}: if the server moved, say so with"
            f" `kropotcli source alias {name} --server-url {url}`, and nothing is fetched again; if it is another"
            " server, collect with --new-source"
        )
    if match.kind in {"known", "unlisted"} and match.id is not None:
        _refuse_retired(ledger, match.id)
    if match.kind == "known" and match.id is not None:
        return match.id
    if match.kind == "unlisted" and match.id is not None:
        say(f"source {match.id.hex()} is now at {url}, because {known[match.id].source.url} was never listed")
        _move(ledger, known[match.id], url)
    else:
        # The ledger never forgets a source, so a mistyped token must not begin one.
        with server.client(LONGEST_TRIAL_S) as client, suppress(ServerTroubleError):
            client.list(None, 1)
        _begin(ledger, token, url, apart_from=match.id or b"")
    found = match_source(ledger.sources(), token, url)
    if found.kind != "known" or found.id is None:
        raise LedgerError("the ledger does not show a source that was begun a moment ago: run the command again")
    if known and match.kind != "unlisted":
        say(f"this token is new: it begins source {found.id.hex()}, and nothing of the others is taken for gone")
        _tell_of_heir(ledger, found.id, url, say)
    return found.id


def _begin(ledger: Ledger, token: str, url: str, *, apart_from: bytes) -> None:
    salt = secrets.token_bytes(32)
    fact = begin(salt=salt, token=token, url=url)
    new = NewFact(key=source_key(source_id_of(salt)), fact=fact, observed_us=ledger.clock_us(), expected=0)
    # Several collectors may meet a new token at the same moment: the first one's append counts for all of them.
    named = b"begin\0" + token.encode() + b"\0" + url.encode() + b"\0" + apart_from
    once = hmac.digest(ledger.identity().salt, named, "sha256")
    ledger.append([new], batch_key=once)


def _move(ledger: Ledger, entry: SourceEntry, url: str) -> None:
    key, fact = source_key(entry.id), moved(entry.source, url)
    # If another collector was faster, it has done the same.
    with suppress(ConflictError):
        ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us(), expected=entry.version)])


def _refuse_retired(ledger: Ledger, source: bytes) -> None:
    """Raise UsageError if a person retired the source of this token: a forgotten collector must not wake it."""
    keeping = keeping_of(ledger, source).keeping
    if keeping.retired_us is not None:
        name = short_name(labels_of(ledger), source)
        raise UsageError(
            f"the source of this token, {name}, was retired at {moment(keeping.retired_us)}: collect with another "
            f"token, or run `kropotcli source retire {shlex.quote(name)} --undo` first"
        )


def _tell_of_heir(ledger: Ledger, heir: bytes, url: str, say: Callable[[str], None]) -> None:
    """Say which sources at the same address count as past once the new one is listed."""
    labels = labels_of(ledger)
    others = [id_ for id_, entry in ledger.sources().items() if id_ != heir and url in entry.source.urls]
    for other in others:
        say(
            f"if the new token replaces that of source {long_name(labels, other)}, there is nothing more to do: it is "
            "past, and only `restore --past-sources` restores it; if both tokens are in use, go on collecting with both"
        )
