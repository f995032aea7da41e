"""`kropotcli erase`: erases an element and its copies forever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli.base import Settings, emit, emit_json, open_ledger, say, surroundings_of
from kropot.cli.base import command as define
from kropot.cli.naming import NAMED, Names, key_options
from kropot.cli.sizes import SPAN
from kropot.errors import LockedError, PartialError, UnacceptedErasureError, UsageError
from kropot.wording import amount, moment, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from kropot.objects.stores.waiting import LockedVersions
    from kropot.retention.erasing import Erasing, ErasureSum
    from ledger.log import Ledger

_FILE = click.Path(dir_okay=False, path_type=Path)
_LONGEST: Final = 500
_PAUSE_S: Final = 5

ELSEWHERE: Final = (
    "dumps and backups of the database, and on PostgreSQL its old rows until `VACUUM event, stream`",
    "copies of the storage, snapshots of its file system, and replicas that its bucket's server makes",
    "exports (`replay --export`), restored files, proofs and recipes",
    "ledgers that `db copy` or `db recover` made, and the caches of people who restore through a keeper",
    "the source itself, and its own backups",
)
"""Where old copies can remain without this program knowing of them."""


@define("erase")
@click.argument("element", required=False)
@click.option("--reason", metavar="TEXT", help="Why, for the history. The history keeps it: do not name a person.")
@click.option(
    "--even-if-present",
    is_flag=True,
    help="Erase it although its source still lists it. It is never recorded again.",
)
@click.option(
    "--retry",
    is_flag=True,
    help="Erase nothing new: remove the versions that were locked when their element was erased.",
)
@click.option(
    "--wait",
    type=SPAN,
    default="10m",
    show_default=True,
    metavar="SPAN",
    help="How long to keep trying a storage that is locked or away.",
)
@click.option(
    "--checkpoint-key",
    "key_file",
    type=_FILE,
    help="The key for checkpoints. Default: a file for this ledger in your configuration folder.",
)
@key_options(f"Take a name as ELEMENT. {NAMED}")
def command(
    settings: Settings,
    *,
    element: str | None,
    reason: str | None,
    even_if_present: bool,
    retry: bool,
    wait: int,
    key_file: Path | None,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
) -> None:
    """Erase an element and its copies for ever, as a law may demand.

    ELEMENT is [SOURCE:]ID or, with --key, [SOURCE:]NAME, which must be the whole name. This frees the objects of all
    its versions, rewrites the packs and segments that hold any of it, and removes its name and its history from the
    ledger. Only the proof that there were events stays: every root and checkpoint remains valid. It cannot be undone.

    It is refused while the source still lists the element, unless --even-if-present is given. If the key for
    checkpoints is here, it signs the erasure. If the command is interrupted, run it again, and it goes on from there.
    At the end it names the places where old copies may remain.

    In buckets that keep versions, this also removes the older ones. Versions that are locked wait for the end of their
    locks (exit code 3): collectors remove them then, or `kropotcli erase --retry` does.
    """
    from kropot.further.erasing import FurtherErasing
    from kropot.objects.opening import open_store
    from kropot.query.erasures import erasures_of
    from kropot.query.names import readings
    from kropot.query.past import labels_of
    from kropot.retention.erasing import ERASER, Erasing
    from kropot.storage_away import demand_objects

    if retry:
        _retry(settings, is_alone=element is None and reason is None)
        return
    if element is None or reason is None:
        raise UsageError("name the ELEMENT to erase, and give a --reason")
    if not reason.strip() or not reason.isprintable() or len(reason) > _LONGEST:
        raise UsageError(f"--reason takes 1 to {_LONGEST} printable characters, e.g. the number of the request")
    storage = open_store(settings.storage_path, ERASER, ca_file=settings.ca_file)
    with open_ledger(settings) as ledger:
        demand_objects(storage, ledger)
        names = Names.of_kits(ledger, kits, passphrase_files)
        erased = erasures_of(ledger, [*readings(labels_of(ledger), element), *names.readings(element)])
        key = names.find(element, erased=erased, is_whole=True)
        sign = _signer(ledger, key_file)
        elsewhere = FurtherErasing(ledger, surroundings_of(settings))
        erasing = Erasing(
            ledger=ledger, storage=storage, key=key, reason=reason, blocks=even_if_present, elsewhere=elsewhere
        )
        done = _patiently(erasing, wait)
        is_signed = done.is_done and sign(done.position)
    _tell(settings, done, is_signed=is_signed)
    if done.left:
        raise PartialError(
            f"{number(len(done.left), 'object')} could not be removed, so the history was not erased either: a pack "
            "that holds other copies is damaged; run `kropotcli verify --repair`, then this command again"
        )
    _raise_waiting(done.waiting)


def _retry(settings: Settings, *, is_alone: bool) -> None:
    """Retry removing locked versions. Raises: UsageError, PartialError if some remain or a storage is unreadable."""
    from kropot.further.erasing import FurtherErasing
    from kropot.objects.opening import open_store
    from kropot.objects.stores.waiting import Purged
    from kropot.retention.erasing import ERASER
    from kropot.retention.needed import needed_in

    if not is_alone:
        raise UsageError("--retry takes no ELEMENT and no --reason: it continues the erasures that are recorded")
    versioned = open_store(settings.storage_path, ERASER, ca_file=settings.ca_file).versioned()
    with open_ledger(settings, read_only=True) as ledger:
        done = Purged() if versioned is None else versioned.retry(needed_in(ledger), even_if_locked=True)
        further, wrong = FurtherErasing(ledger, surroundings_of(settings)).retry()
        done += further
    if settings.json:
        emit_json("erase_retry", {"versions": done.removed, "waiting": done.waiting.json})
    else:
        emit(f"removed {number(done.removed, 'older version')}")
    if wrong:
        raise PartialError("older versions may still be in further storages that cannot be read: " + "; ".join(wrong))
    _raise_waiting(done.waiting)


def _raise_waiting(waiting: LockedVersions) -> None:
    """Raise PartialError if versions are still locked."""
    if waiting.versions:
        raise PartialError(
            f"{number(waiting.versions, 'older version')} of erased content cannot be removed yet, because a bucket "
            f"locks the last of them until {moment(waiting.until_us)}: collectors remove them then, or run `kropotcli "
            "erase --retry`"
        )


def _patiently(erasing: Erasing, wait_s: int) -> ErasureSum:
    """Erase, and try again while a place is locked or unavailable. Raises: PartialError after `wait_s`."""
    from kropot.durable.errors import StorageError
    from kropot.further.joining import FurtherStorageError
    from ledger.errors import ConflictError

    until = time.monotonic() + wait_s
    said = False
    while True:
        try:
            return erasing.run()
        except (LockedError, StorageError, FurtherStorageError, ConflictError) as error:
            if time.monotonic() >= until:
                raise PartialError(
                    f"the erasure is not complete: {error}; run the same command again, and it goes on from there"
                ) from error
            if not said:
                say(f"{error}; trying again")
            said = True
            time.sleep(min(_PAUSE_S, max(until - time.monotonic(), 0)))


# --- the signature ---------------------------------------------------------------------------------------------------


def _signer(ledger: Ledger, key_file: Path | None) -> Callable[[int], bool]:
    """Return a function that signs the erasure at a position, if the key is here and no other erasure is unsigned.

    The ledger is signed first as it is now, so that an erasure by somebody else is never accepted along with this one.
    """
    from kropot.checkpoints.paths import default_key_path
    from kropot.checkpoints.signing import sign_head
    from kropot.retention.keys import covered_by, key_for

    key = key_for(ledger, key_file)
    file = key_file or default_key_path(ledger.identity().ledger_id)
    if key is None or file is None:
        has_signer = covered_by(ledger, None) is not None

        def ask(position: int) -> bool:
            if has_signer:
                say(f"to sign it, run where the key is: `kropotcli checkpoint sign --accept-erasures {position}`")
            return False

        return ask
    try:
        sign_head(ledger, key, file, [])
    except UnacceptedErasureError as error:
        why = str(error)

        def refuse(_: int) -> bool:
            say(f"not signed: {why}")
            return False

        return refuse
    return lambda position: bool(sign_head(ledger, key, file, [], accepted=position))


# --- messages --------------------------------------------------------------------------------------------------------


def _tell(settings: Settings, done: ErasureSum, *, is_signed: bool) -> None:
    if settings.json:
        emit_json("erase", _json(done, is_signed=is_signed))
        return
    emit(f"freed {amount(done.size)} of {number(done.objects, 'object')}")
    if done.packs or done.segments or done.set_aside:
        emit(
            f"rewrote {number(done.packs, 'pack')} and {number(done.segments, 'segment')}, and removed "
            f"{number(done.set_aside, 'file')} that had been set aside"
        )
    if done.versions:
        emit(f"removed {number(done.versions, 'older version')} from buckets")
    for sha256 in done.shared:
        emit(f"{sha256.hex()} stays: another element has the same content")
    if not done.is_done:
        return
    signed = ", and signed it" if is_signed else ""
    emit(f"erased {number(done.payloads, 'event')} of the element (event {done.position}){signed}")
    emit("old copies may remain in:")
    if done.is_log_held:
        emit("  the database's own log (-wal), while others read it: stop the collectors and run this command again")
    for place in ELSEWHERE:
        emit(f"  {place}")


def _json(done: ErasureSum, *, is_signed: bool) -> dict[str, Any]:
    return {
        "done": done.is_done,
        "position": done.position or None,
        "payloads": done.payloads,
        "freed": {"objects": done.objects, "bytes": done.size},
        "packs": done.packs,
        "segments": done.segments,
        "set_aside": done.set_aside,
        "versions": done.versions,
        "waiting": done.waiting.json,
        "shared": [sha256.hex() for sha256 in done.shared],
        "left": [sha256.hex() for sha256 in done.left],
        "log_held": done.is_log_held,
        "signed": is_signed,
        "elsewhere": list(ELSEWHERE),
    }
