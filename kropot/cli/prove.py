"""`kropotcli prove`: makes a proof of what the ledger says about one element. Anyone can check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kropot.cli.base import Settings, emit_document, open_ledger
from kropot.cli.base import command as define
from kropot.cli.moments import UNTIL_HELP, moment_of
from kropot.cli.naming import NAMED, Names, key_options
from kropot.errors import UsageError

if TYPE_CHECKING:
    from ledger.checkpoint import Checkpoint


@define("prove")
@click.argument("element")
@click.option("--at", "until", metavar="WHEN", help=UNTIL_HELP)
@click.option(
    "--checkpoint",
    "files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Use this checkpoint, not one from the database. Can be repeated: the smallest one that covers the event is"
    " used.",
)
@key_options(f"Take a name as ELEMENT. {NAMED}")
def command(
    settings: Settings,
    *,
    element: str,
    until: str | None,
    files: tuple[Path, ...],
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
) -> None:
    """Prove what the ledger says about ELEMENT to someone who has no access to the ledger.

    ELEMENT is [SOURCE:]ID or, with --key, [SOURCE:]NAME. The beginning of an ID or the end of a NAME is enough. This
    prints a JSON document that you can keep or give away. `kropotcli check-proof` checks it with only the public key.
    The document reveals the element's id, its state and its source's salt, but nothing of the content.
    """
    from kropot.proofs import prove_event

    with open_ledger(settings, read_only=True) as ledger:
        key = Names.of_kits(ledger, kits, passphrase_files).find(element)
        position = moment_of(ledger, until).position
        if files:
            notes = [read_checkpoint(path) for path in files]
        else:
            notes = [parse_note(note.encode(), "the database") for _, note in ledger.blobs.checkpoints()]
        document = prove_event(ledger, key, until=position, checkpoints=notes)
    emit_document(document)


def read_checkpoint(path: Path) -> tuple[Checkpoint, bytes]:
    """Return a file's checkpoint, with its signature not verified, and the note. Raises: UsageError if it has none."""
    from kropot.checkpoints.folder import read_note

    return parse_note(read_note(path), str(path))


def parse_note(note: bytes, where: str) -> tuple[Checkpoint, bytes]:
    """Return a note's checkpoint, with its signature not verified, and the note. Raises: UsageError if it has none."""
    from ledger.checkpoint import unverified_checkpoint
    from ledger.errors import BadCheckpointError

    try:
        return unverified_checkpoint(note), note
    except BadCheckpointError as error:
        raise UsageError(f"{where}: {error.why}; give a checkpoint file") from None
