"""The origin of copies for `kropotcli restore`: a ledger with its storage, an export, or the storage alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from kropot.cli.afar import refuse_token_alone
from kropot.cli.base import open_ledger, say
from kropot.cli.copies import open_copies
from kropot.cli.moments import moment_of
from kropot.errors import UsageError
from kropot.query.erasures import erased_in
from kropot.query.names import find_source
from kropot.query.past import freshest_first, labels_of, past_ids, sources_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from kropot.cli.base import Settings
    from kropot.cli.restore_trust import Trust
    from kropot.query.erasures import Erased
    from kropot.query.past import KnownSource
    from kropot.replay.copies import Copies, HeldCopy
    from kropot.restore.from_storage import Surveyed
    from kropot.restore.opener import Key
    from ledger.answers import Tally
    from ledger.log import Ledger
    from ledger.rows import StoredEvent


_MANY = 1_000_000


class RestoreOrigin(Struct, frozen=True, kw_only=True):
    """The elements to choose from, and their copies. `sources` are the sources, and `erased` sums up the erasures.

    Both are None if they are not known. `tallies` are the sums over all elements, empty if they are not known. Once all
    elements have been read, `hidden` counts those of the history that were missing. `survey` sums up a storage
    that is read without a ledger. `workers` limits the processes that read copies; None means one per processor.
    """

    helds: Iterable[HeldCopy]
    copies: Copies
    wanted: frozenset[bytes]
    sources: dict[bytes, KnownSource] | None
    erased: Erased | None = None
    tallies: Sequence[Tally] = ()
    hidden: Callable[[], int] = lambda: 0
    survey: Surveyed | None = None
    workers: int | None = None

    def total(self, *, vanished: bool, past: bool) -> tuple[int, int] | tuple[None, None]:
        """Return the number of files to restore, and their stored bytes, or (None, None) if they are not known."""
        chosen = self.wanted or {id_ for id_, each in (self.sources or {}).items() if past or each.past is None}
        counted = [
            each
            for each in self.tallies
            if each.bytes and (vanished or each.state != "vanished") and each.source in chosen
        ]
        if not counted:
            return None, None
        return sum(each.elements for each in counted), sum(each.bytes for each in counted)

    def count(self, *, past: bool) -> int | None:
        """Return the number of wanted sources, None if it is not known."""
        if self.wanted or self.sources is None:
            return len(self.wanted) or None
        return sum(past or each.past is None for each in self.sources.values())


class RestoreWish(Struct, frozen=True, kw_only=True):
    """The options of a restore that decide what is read.

    `origin` is an export's folder or a keeper's address, None for the ledger, and `names` are the patterns.
    """

    origin: Path | str | None = None
    token_file: Path | None = None
    from_storage: bool = False
    until: str | None = None
    sources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    vanished: bool = False
    past: bool = False
    snapshots: bool = True
    remember: bool = False


def origin_of(
    settings: Settings, wish: RestoreWish, keys: Sequence[Key], trust: Trust
) -> AbstractContextManager[RestoreOrigin]:
    """Return a context manager for the origin of the copies. Raises: UsageError if options do not fit together."""
    refuse_token_alone(wish.origin, wish.token_file)
    if wish.from_storage:
        if wish.origin is not None or wish.until is not None or wish.sources:
            raise UsageError("--from-storage reads no ledger and no export: leave out --from, --until and --source")
        return from_storage(settings, keys, trust)
    if isinstance(wish.origin, str):
        from kropot.cli.restore_keeper import from_keeper

        return from_keeper(settings, wish.origin, wish, keys, trust)
    if wish.origin is not None:
        return from_export(wish.origin, wish.until, wish.sources, trust)
    return from_ledger(settings, wish.until, wish.sources, trust, snapshots=wish.snapshots, remember=wish.remember)


@contextmanager
def from_ledger(
    settings: Settings,
    until: str | None,
    source_names: tuple[str, ...],
    trust: Trust,
    *,
    snapshots: bool,
    remember: bool,
) -> Iterator[RestoreOrigin]:
    """Yield the copies of a ledger. Raises: IntegrityError if its history is not the one that `trust` knows."""
    from kropot.replay.copies import held_at
    from kropot.replay.fold import walk
    from kropot.replay.snapshots import pointers_at
    from kropot.restore.history import History, headers_of, salts_of

    with open_ledger(settings, read_only=True) as ledger, open_copies(settings, ledger) as copies:
        moment = moment_of(ledger, until)
        size, first = ledger.head().position, _first(ledger)
        claimed = _id_in(first)
        if size >= _MANY:
            say(f"reading the headers of {size:,} events first, about two minutes for every 10 million")
        with History(headers_of(ledger, size), until=moment.position, marks=trust.marks(claimed)) as history:
            proved = claimed if first is not None and history.has(first) else None
            trust.compare(history, proved, what="this ledger", remember=remember)
            labels, known = labels_of(ledger), sources_at(ledger, moment.position)
            wanted = frozenset(find_source(labels, name) for name in source_names)
            with pointers_at(ledger, moment.position, snapshots=snapshots) as pointers:
                standings = walk(ledger, pointers, moment.position, sources=freshest_first(known), whole=True)
                helds = held_at(ledger, standings, past=past_ids(known), with_events=True)
                salts = {id_: salt for id_, salt in salts_of(ledger).items() if history.vouches(ledger, id_, salt)}
                yield RestoreOrigin(
                    helds=history.judged(helds, salts),
                    copies=copies,
                    wanted=wanted,
                    sources=known,
                    erased=erased_in(ledger),
                    tallies=() if until else ledger.tallies(),
                    hidden=lambda: history.hidden(ledger),
                )


def _first(ledger: Ledger) -> StoredEvent | None:
    return next(iter(ledger.log.events_at([1])), None)


def _id_in(first: StoredEvent | None) -> bytes | None:
    """Return the ledger's id in its first event, None if it cannot be read. The id is not proved yet."""
    from ledger.codec import decode_payload
    from ledger.errors import LedgerError
    from ledger.events import LedgerBegan

    if first is None or first.payload is None:
        return None
    try:
        fact = decode_payload(first.type, first.schema_version, first.flags, first.payload)
    except LedgerError:
        return None
    return fact.ledger_id if isinstance(fact, LedgerBegan) else None


@contextmanager
def from_export(root: Path, until: str | None, source_names: tuple[str, ...], trust: Trust) -> Iterator[RestoreOrigin]:
    """Yield the copies in an export. Raises: IntegrityError if its history is not the one that `trust` knows."""
    from kropot.restore.history import History
    from kropot.restore.read_export import ExportedCopies

    if until is not None or source_names:
        raise UsageError(
            f"--until and --source do not work with the export {root}, which holds all sources at one moment: leave "
            f"them out, or restore from the ledger"
        )
    copies = ExportedCopies(root)
    try:
        found = copies.history()
        if found is None:
            trust.skip("the export has no history")
            yield RestoreOrigin(helds=copies.helds(), copies=copies, wanted=frozenset(), sources=None)
            return
        told, headers = found
        claimed = _id_in(told.first)
        with History(headers, until=told.position, marks=trust.marks(claimed)) as history:
            is_proved = claimed is not None and history.has(told.first)
            trust.compare(history, claimed if is_proved else None, what="the export", remember=False)
            if told.position < history.size:
                trust.seen.append(f"the export shows the state after event {told.position:,}")
            helds = history.judged(copies.helds(), told.salts)
            yield RestoreOrigin(helds=helds, copies=copies, wanted=frozenset(), sources=None, hidden=history.left_out)
    finally:
        copies.close()


@contextmanager
def from_storage(settings: Settings, keys: Sequence[Key], trust: Trust) -> Iterator[RestoreOrigin]:
    """Yield the newest version of each element that has objects in the storage. No ledger is read."""
    from kropot.restore.from_storage import Surveyed, newest_versions
    from kropot.sc2.vault import Vault

    vaults = {key.id: key for key in keys if isinstance(key, Vault)}
    if not vaults:
        raise UsageError(
            "--from-storage opens only what sc2 sealed, and needs the kit of its vault: give it with --key"
        )
    trust.skip(
        "no ledger was read, and only a ledger knows what was deleted: the last sealed version of each file was "
        "restored"
    )
    survey = Surveyed()
    with open_copies(settings) as copies:
        yield RestoreOrigin(
            helds=newest_versions(copies.objects, vaults, survey),
            copies=copies,
            wanted=frozenset(),
            sources=None,
            survey=survey,
        )
