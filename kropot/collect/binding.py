"""Finds the source that a token belongs to, or begins one. The ledger never forgets a source, so this is careful."""

from __future__ import annotations

import hmac
import secrets
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kropot.collect.decide.sources import (
    begin,
    match_source,
    moved,
    source_key,
    source_of_vault,
    token_mac,
    was_listed,
)
from kropot.errors import UsageError
from kropot.query.names import long_name, short_name
from kropot.query.past import labels_of
from kropot.securecopy.client import ServerTroubleError
from kropot.wording import moment
from ledger.append import NewFact
from ledger.codec import source_id_of
from ledger.errors import ConflictError, LedgerError
from ledger.keeping import keeping_of
from ledger.vaults import NOTHING_NAMED, naming_of, namings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kropot.securecopy.client import ServerAccess
    from ledger.answers import SourceEntry
    from ledger.log import Ledger
    from ledger.vaults import Naming

LONGEST_TRIAL_S: Final = 10
"""How long the server may take to say whether it knows a new token. After that, the collector finds out by itself."""


def find_source(server: ServerAccess, ledger: Ledger, *, new_source: bool, say: Callable[[str], None]) -> bytes:
    """Return the id of this token's source. A new token begins one, unless its vault has a source at this address.

    `new_source` begins a new one even if the token, or its vault, is known. `say` takes a sentence for the user.

    Raises:
        UsageError: the token, or its vault, is known from another server, or its source is retired.
        ServerRefusedError: the token is new, and the server refuses it.
        ServerTroubleError: the token is new, and only the server can say whether it belongs to the vault of a source.
    """
    url, token = server.url, server.token.reveal()
    known, namings = ledger.sources(), namings_of(ledger.store)
    match = match_source(known, token, url, namings)
    if match.kind == "moved" and match.id is not None and not new_source:
        raise _is_elsewhere(ledger, known[match.id], url, "this token")
    if match.kind in {"known", "unlisted"} and match.id is not None:
        _refuse_retired(ledger, match.id, "this token")
        if match.kind == "known" and was_listed(known[match.id].source):
            return match.id
    others = {id_: entry for id_, entry in known.items() if id_ != match.id}
    vault, heir = _ask_for_vault(server, others, namings, is_known=match.kind in {"known", "unlisted"}, new=new_source)
    if heir is not None and vault is not None:
        return _continue(ledger, known[heir], vault, server, say)
    if match.kind == "known" and match.id is not None:
        return match.id
    if match.kind == "unlisted" and match.id is not None:
        say(f"source {match.id.hex()} is now at {url}, because {known[match.id].source.url} was never listed")
        _move(ledger, known[match.id], url)
    else:
        _begin(ledger, token, url, vault, apart_from=match.id or b"")
    found = match_source(ledger.sources(), token, url, namings_of(ledger.store))
    if found.kind != "known" or found.id is None:
        raise LedgerError("the ledger does not show a source that has just begun: run the command again")
    if known and match.kind != "unlisted":
        say(f"this token is new: it begins source {found.id.hex()}, and the other sources stay as they are")
        _tell_of_heir(ledger, found.id, url, say)
    return found.id


def _ask_for_vault(
    server: ServerAccess,
    others: Mapping[bytes, SourceEntry],
    namings: Mapping[bytes, Naming],
    *,
    is_known: bool,
    new: bool,
) -> tuple[bytes | None, bytes | None]:
    """Return the vault of a token that listed nothing yet, and the other source that it continues; None for neither.

    The server is asked whether it knows the token, because the ledger never forgets a source, so a mistyped token must
    not begin one. If the server does not answer, that can wait, unless a vault could get a second source.

    Raises:
        ServerRefusedError: it refuses the token.
        ServerTroubleError: it cannot be asked, and a source at its address has a vault.
    """
    is_needed = not new and any(
        namings[id_].vault is not None and server.url in entry.source.urls for id_, entry in others.items()
    )
    if is_known and not is_needed:
        return None, None
    try:
        with server.client(LONGEST_TRIAL_S) as client:
            vault = client.list(None, 1).vault
    except ServerTroubleError as error:
        if not is_needed:
            return None, None
        text = (
            f"{error}; only the server can say whether the new token continues a source: run this again when it answers"
        )
        raise ServerTroubleError(error.reason, error.status, detail=text) from None
    heir = None if vault is None or new else source_of_vault(others, vault, server.url, namings)
    return vault, heir


def _continue(
    ledger: Ledger, heir: SourceEntry, vault: bytes, server: ServerAccess, say: Callable[[str], None]
) -> bytes:
    """Record that a further token of its vault continues a source, and return its id. Raises: UsageError."""
    if server.url not in heir.source.urls:
        raise _is_elsewhere(ledger, heir, server.url, "the vault of this token")
    _refuse_retired(ledger, heir.id, "the vault of this token")
    mac = token_mac(heir.source.salt, server.token.reveal())
    while mac not in (naming := naming_of(ledger.log, heir.id)).token_macs:
        # If another collector was faster, this token or another one was admitted meanwhile.
        with suppress(ConflictError):
            ledger.append([naming.fact(heir.id, vault, mac, observed_us=ledger.clock_us())])
    name = long_name(labels_of(ledger), heir.id)
    say(f"this token is new and belongs to the vault of source {name}: it continues this source")
    return heir.id


def _begin(ledger: Ledger, token: str, url: str, vault: bytes | None, *, apart_from: bytes) -> None:
    salt = secrets.token_bytes(32)
    source, now_us = source_id_of(salt), ledger.clock_us()
    facts = [
        NewFact(key=source_key(source), fact=begin(salt=salt, token=token, url=url), observed_us=now_us, expected=0)
    ]
    if vault is not None:
        facts.append(NOTHING_NAMED.fact(source, vault, observed_us=now_us))
    # Several collectors may meet a new token at the same moment: the first one's append counts for all of them.
    named = b"begin\0" + token.encode() + b"\0" + url.encode() + b"\0" + apart_from
    once = hmac.digest(ledger.identity().salt, named, "sha256")
    ledger.append(facts, batch_key=once)


def _move(ledger: Ledger, entry: SourceEntry, url: str) -> None:
    key, fact = source_key(entry.id), moved(entry.source, url)
    # If another collector was faster, it has done the same.
    with suppress(ConflictError):
        ledger.append([NewFact(key=key, fact=fact, observed_us=ledger.clock_us(), expected=entry.version)])


def _is_elsewhere(ledger: Ledger, entry: SourceEntry, url: str, what: str) -> UsageError:
    """Return the error for a token, or a vault, that is known from another address."""
    name = shlex.quote(short_name(labels_of(ledger), entry.id))
    return UsageError(
        f"{what} is known from {entry.source.url}, not from {url}: if the server moved, run `kropotcli source alias "
        f"{name} --server-url {url}`, and nothing is fetched again; if it is a different server, collect with "
        f"--new-source"
    )


def _refuse_retired(ledger: Ledger, source: bytes, what: str) -> None:
    """Raise UsageError if a person retired the source: a forgotten collector must not wake it."""
    keeping = keeping_of(ledger, source).keeping
    if keeping.retired_us is not None:
        name = short_name(labels_of(ledger), source)
        raise UsageError(
            f"the source of {what}, {name}, was retired at {moment(keeping.retired_us)}: collect with another "
            f"token, or run `kropotcli source retire {shlex.quote(name)} --undo` first"
        )


def _tell_of_heir(ledger: Ledger, heir: bytes, url: str, say: Callable[[str], None]) -> None:
    """Say which sources at the same address count as past once the new one is listed."""
    labels = labels_of(ledger)
    others = [id_ for id_, entry in ledger.sources().items() if id_ != heir and url in entry.source.urls]
    for other in others:
        say(
            f"if the new token replaces that of source {long_name(labels, other)}, you need to do nothing: that source "
            "is past, and only `restore --past-sources` restores it; if both tokens are in use, keep collecting with "
            "both"
        )
