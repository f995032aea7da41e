"""Sign the head of a ledger, but only a tree that the signer computed itself and that extends what it signed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.checkpoints.folder import CheckpointFolderAwayError
from kropot.checkpoints.state import SignerState
from kropot.errors import IntegrityError, UnacceptedErasureError
from ledger.audit.rows import read_head
from ledger.checkpoint import Checkpoint, open_checkpoint, origin_of, sign_checkpoint, unverified_checkpoint
from ledger.codec import decode_header, leaf_hash, payload_digest
from ledger.errors import BadCheckpointError, LedgerError
from ledger.events import PayloadErased
from ledger.merkle import Frontier
from ledger.rows import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from kropot.checkpoints.folder import CheckpointFolder, KeptCheckpoint
    from ledger.log import Ledger
    from ledger.note import SigningKey
    from ledger.stores import EventLog

_PAGE = 4096
_HEADER = StoredEvent._fields.index("header")
_MOST_SHOWN = 10
_ERASURE = PayloadErased.TYPE.encode()
_MANY = 1_000_000
"""From this many events on, a message says that reading them takes a while."""


class Signed(Struct, frozen=True, kw_only=True):
    """A signed head: the checkpoint, its note, and the files that were written (none if all folders had it)."""

    checkpoint: Checkpoint
    note: bytes
    paths: tuple[Path, ...]


class _Before(Struct, frozen=True):
    """A tree that this key signed before, and where that is recorded."""

    where: str
    size: int
    root: bytes


def sign_head(
    ledger: Ledger,
    key: SigningKey,
    key_file: Path,
    folders: Sequence[CheckpointFolder],
    *,
    accepted: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Signed:
    """Sign the ledger's head, keep the note in the database, and write it to every folder that lacks it.

    The signer trusts its own state (next to `key_file`) and its own signatures. From there on it hashes the headers of
    the events itself. What the database says about the tree (its head, commits and leaves) is only compared.

    An erasure that this key has not signed before is signed only if a person accepted it: `accepted` is the last
    position up to which all are accepted. So a signature over an erasure means that the key's owner wanted it.

    Raises:
        IntegrityError: if the ledger does not extend everything that this key signed, or its head is not the tree of
            its events. The ledger was then restored from an old copy, or altered, and nothing is signed.
        UnacceptedErasureError: if there is an erasure that nobody accepted. Nothing is signed.
        LockedError: if another process is signing with this key.
        CheckpointFolderAwayError: if a folder is not there. The head is still signed, and written to the other folders.
        KropotError: if the signer's state or a folder cannot be read or written.
    """
    ledger_id = _ledger_id(ledger)
    state = SignerState(key_file, ledger_id)
    with state.locked():
        signed = state.read()
        here, away = _looked_at(state, folders)
        newest = [folder.newest() for folder in here]
        before = list(_signed_before(ledger, key, origin_of(ledger_id), signed, newest))
        tree = _tree_of_head(ledger.log, signed, before, accepted, say)
        if tree != signed:
            # The state MUST be durable before anybody can see the signature: only it prevents signing a second history.
            state.write(tree)
        checkpoint = Checkpoint(origin=origin_of(ledger_id), size=tree.size, root=tree.root)
        note = sign_checkpoint(checkpoint, key)
        paths = []
        for folder, kept in zip(here, newest, strict=True):
            if kept is None or unverified_checkpoint(kept.note).size < tree.size:
                paths.append(folder.write(note))
            else:
                folder.settle()
        fresh = [folder.folder for folder in here if not state.knows(folder.folder)]
        if fresh:
            for each in fresh:
                state.remember(each)
            state.write(tree)
        ledger.blobs.save_checkpoint(checkpoint.size, note.decode())
    if away:
        raise away[0]
    return Signed(checkpoint=checkpoint, note=note, paths=tuple(paths))


def _looked_at(
    state: SignerState, folders: Sequence[CheckpointFolder]
) -> tuple[list[CheckpointFolder], list[CheckpointFolderAwayError]]:
    """Return the folders that are there, and the errors of the others."""
    here: list[CheckpointFolder] = []
    away: list[CheckpointFolderAwayError] = []
    for folder in folders:
        try:
            folder.demand(held_some=state.knows(folder.folder))
            here.append(folder)
        except CheckpointFolderAwayError as error:
            away.append(error)
    return here, away


# --- helpers ---------------------------------------------------------------------------------------------------------


def _ledger_id(ledger: Ledger) -> bytes:
    """Return the ledger's id. The first event's header MUST commit to it, or another ledger's tree could be signed.

    Raises: IntegrityError.
    """
    ledger_id = ledger.identity().ledger_id
    first = ledger.log.events_at([1])[0]
    digest = None if first.nonce is None or first.payload is None else payload_digest(first.nonce, first.payload)
    if decode_header(first.header).payload_digest != digest:
        raise IntegrityError(
            "the ledger's first event does not commit to its id, so nothing was signed: run `kropotcli verify`"
        )
    return ledger_id


def _signed_before(
    ledger: Ledger, key: SigningKey, origin: str, signed: Frontier | None, newest: Iterable[KeptCheckpoint | None]
) -> Iterator[_Before]:
    """Yield the known trees that this key signed before. Raises: IntegrityError for a folder of another key or ledger.

    A note in the database counts only if this key signed it, because anyone who can write there can add other notes.
    """
    if signed is not None:
        yield _Before("what this key signed last", signed.size, signed.root)
    for size, note in ledger.blobs.checkpoints():
        if signed is not None and size <= signed.size:
            continue
        try:
            checkpoint = open_checkpoint(note.encode(), key.verifier)
        except BadCheckpointError:
            continue
        if checkpoint.origin == origin:
            yield _Before("a checkpoint in the database", checkpoint.size, checkpoint.root)
    for kept in newest:
        if kept is None:
            continue
        try:
            checkpoint = open_checkpoint(kept.note, key.verifier)
        except BadCheckpointError as error:
            raise IntegrityError(
                f"{kept.path} cannot be trusted ({error.why}), so nothing was signed: check the key, or use a new "
                "folder for a new key"
            ) from None
        if checkpoint.origin != origin:
            raise IntegrityError(
                f"{kept.path} belongs to another ledger ({checkpoint.origin}), so nothing was signed: check that this "
                "is the right database, and give each replica its own folder"
            )
        yield _Before(str(kept.path), checkpoint.size, checkpoint.root)


def _tree_of_head(
    log: EventLog, signed: Frontier | None, before: Sequence[_Before], accepted: int, say: Callable[[str], None]
) -> Frontier:
    """Return the tree of all events that the head covers, computed from their headers.

    The computation starts after `signed`, or at event 1 if a smaller tree must be compared.

    Raises: IntegrityError; UnacceptedErasureError for an erasure after all of `before` and after `accepted`.
    """
    # The head is read last, so no tree that was signed before can be larger, unless the ledger was rolled back.
    head, fault = read_head(log)
    if fault is not None:
        raise IntegrityError(
            f"the database's head cannot be read ({fault.detail}), so nothing was signed: run `kropotcli verify`"
        )
    for each in before:
        if each.size > head.position:
            raise IntegrityError(
                f"{each.where} covers {each.size} events, but the ledger has only {head.position}, so nothing was "
                "signed: it was truncated or rolled back to an older copy; restore the newest backup of the database, "
                "or sign what is left with a new key"
            )
    tree = Frontier() if signed is None or any(each.size < signed.size for each in before) else signed
    if head.position - tree.size >= _MANY:
        say(
            f"reading the headers of {head.position - tree.size:,} events, about a minute for every 10 million; the "
            "next signing reads only what is new"
        )
    for each in sorted(before, key=lambda one: one.size):
        tree = _grown(log, tree, each.size, [])
        if tree.root != each.root:
            raise IntegrityError(
                f"the ledger's first {each.size} events are not those that {each.where} covers, so nothing was signed: "
                "the history was altered; run `kropotcli verify`"
            )
    erasures: list[int] = []
    tree = _grown(log, tree, head.position, erasures)
    if tree.stored != head.frontier:
        raise IntegrityError(
            f"the database's head is not the tree of its {head.position} events, as this signer computed it, so "
            f"nothing was signed: the head or the history was altered; run `kropotcli verify`"
        )
    unaccepted = [position for position in erasures if position > accepted]
    if unaccepted:
        raise UnacceptedErasureError(
            f"{_shown(unaccepted)} erased the history of an element, and this key did not accept that, so nothing was "
            f"signed: if you asked for all of it, run `kropotcli checkpoint sign --accept-erasures {unaccepted[-1]}`; "
            "if not, run `kropotcli verify`"
        )
    return tree


def _is_erasure(header: bytes) -> bool:
    """Return whether the header is of an erasure. A header that has the word but cannot be decoded counts too."""
    if _ERASURE not in header:  # true for nearly all, and decoding is slow
        return False
    try:
        return decode_header(header).type == PayloadErased.TYPE
    except LedgerError:
        return True


def _shown(positions: Sequence[int]) -> str:
    if len(positions) == 1:
        return f"the event at position {positions[0]}"
    more = len(positions) - _MOST_SHOWN
    listed = ", ".join(map(str, positions[:_MOST_SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f"each of {len(positions)} events (positions {listed})"


def _grown(log: EventLog, tree: Frontier, size: int, erasures: list[int]) -> Frontier:
    """Extend a smaller tree to the first `size` events. Add the positions of erasures to `erasures`.

    Raises: IntegrityError if an event is missing.
    """
    while tree.size < size:
        wanted = min(size - tree.size, _PAGE)
        headers = [row[_HEADER] for row in log.page(tree.size, tree.size + wanted, wanted)]
        if len(headers) != wanted or not all(type(header) is bytes for header in headers):
            raise IntegrityError(
                f"events from position {tree.size + 1} on are missing or unreadable, and the database's head covers "
                "them, so nothing was signed: run `kropotcli verify`"
            )
        erasures += [at for at, header in enumerate(headers, tree.size + 1) if _is_erasure(header)]
        tree = tree.extend(map(leaf_hash, headers))
    return tree
