"""The origin of copies for `kropotcli restore --from https://...`: a replica that a keeper serves."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kropot.cli.afar import RemoteState, keeper_at, remote_state
from kropot.cli.base import Settings, say
from kropot.cli.restore_origin import RestoreOrigin, RestoreWish
from kropot.errors import IntegrityError
from kropot.query.past import freshest_first, past_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kropot.afar.cache import SealedCache
    from kropot.cli.restore_trust import Trust
    from kropot.replay.copies import HeldCopy
    from kropot.restore.history import History
    from kropot.restore.opener import Key

_MANY = 100_000


@contextmanager
def from_keeper(
    settings: Settings, address: str, wish: RestoreWish, keys: Sequence[Key], trust: Trust
) -> Iterator[RestoreOrigin]:
    """Yield the copies that a keeper has. Exact names are looked up, with one request each.

    Raises: IntegrityError if its history is not the one that `trust` knows; else as `KeeperClient.get`.
    """
    from kropot.afar.objects import RemoteCopies

    with keeper_at(settings, address, wish.token_file) as replica, RemoteCopies(replica.client) as copies:
        state = remote_state(replica, wish.until, wish.sources)
        found = _looked_up(state, wish, keys, trust) if wish.names and not trust.signed else None
        if found is not None:
            yield RestoreOrigin(helds=found, copies=copies, wanted=state.wanted, sources=state.sources.known, workers=0)
            return
        with state.cache() as cache, _history(state, cache, trust) as history:
            claimed = state.tree.ledger_id if history.has(state.tree.first) else None
            trust.compare(history, claimed, what=_WHAT, remember=wish.remember)
            sees_all = state.sources.is_all and not state.wanted
            if not sees_all:
                trust.seen.append("other sources were not read, so anything missing there went unnoticed")
            yield RestoreOrigin(
                helds=history.judged(_helds(state, cache), state.tree.salts),
                copies=copies,
                wanted=state.wanted,
                sources=state.sources.known,
                tallies=() if wish.until else state.sources.tallies,
                hidden=history.left_out if sees_all else lambda: 0,
                # Other processes cannot use this client's connections.
                workers=0,
            )


_WHAT = "the keeper's ledger"


def _looked_up(state: RemoteState, wish: RestoreWish, keys: Sequence[Key], trust: Trust) -> list[HeldCopy] | None:
    """Return the files with these names, or None if a name can mean something other than one file."""
    from kropot.afar.look_up import RemoteLookUp
    from kropot.afar.proved import ProvedTree

    known = state.sources.known
    in_use = [id_ for id_ in freshest_first(known) if wish.past or known[id_].past is None]
    chosen = [id_ for id_ in freshest_first(known) if id_ in state.wanted] or in_use
    seen = [each for _, each in trust.known(state.tree.ledger_id)]
    tree = ProvedTree(state.replica, state.tree, seen)
    look_up = RemoteLookUp(state.replica, tree, keys, sources=chosen, position=state.position, vanished=wish.vanished)
    found = look_up.named(wish.names)
    if found is not None:
        trust.compare(tree, state.tree.ledger_id if tree.has_first else None, what=_WHAT, remember=wish.remember)
        trust.seen.append(
            "only the keeper says that no later event changed these files: give a pattern, and all headers are read "
            "to prove it"
        )
    return found


@contextmanager
def _history(state: RemoteState, cache: SealedCache, trust: Trust) -> Iterator[History]:
    """Yield the history of the keeper's ledger. If the cached headers do not fit this ledger, they are read again.

    Raises: IntegrityError if the headers do not have the root that the keeper claims.
    """
    from kropot.restore.history import History

    size = state.tree.frontier.size
    if size >= _MANY:
        say(f"reading the headers of {size:,} events; those that an earlier command read are kept")
    for is_last in (False, True):
        marks = trust.marks(state.tree.ledger_id)
        with History(cache.headers(state.replica, size), until=state.position, marks=marks) as history:
            if history.tree.root == state.tree.frontier.root:
                yield history
                return
        if is_last:
            raise IntegrityError(
                f"the headers of events that {state.where} sends do not belong to the tree that it claims, so nothing "
                "was written: ask whoever runs the keeper to run `kropotcli verify`"
            )
        cache.forget()


def _helds(state: RemoteState, cache: SealedCache) -> Iterator[HeldCopy]:
    """Yield the copies of the wanted sources, beginning with the source that was listed last."""
    from kropot.afar.replica import held_of_row

    known = state.sources.known
    past = past_ids(known)
    for source in freshest_first(known):
        if state.wanted and source not in state.wanted:
            continue
        for row in cache.rows(state.replica, source, state.position, erased_at=state.tree.erased_at):
            held = held_of_row(row, is_past=source in past)
            if held.key.source == source:
                yield held
