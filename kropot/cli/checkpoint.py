"""`kropotcli checkpoint`: make a key, sign the head, list what was signed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Settings, emit, emit_json, group, open_ledger, say, storage_of
from kropot.errors import UsageError
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.log import Ledger
    from ledger.note import VerifierKey

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_KEY_HELP = "The signing key's file; by default in the user's configuration folder, one for each ledger."


@group("checkpoint")
def command() -> None:
    """Sign the state of the ledger, to be kept elsewhere.

    A checkpoint is a small signed text: this ledger, so many events, this Merkle root. Kept on another machine or
    medium it exposes any later change of the history before it, and a ledger put back to an older copy.
    """


@command.command("init")
@click.option("--key", "key_file", type=_FILE, help=_KEY_HELP)
@click.option("--name", help="The name it signs under; by default the ledger's own, which then must exist.")
def init(settings: Settings, *, key_file: Path | None, name: str | None) -> None:
    """Make a signing key, and print the public key that others verify with.

    The signing key is readable by its owner alone (0600); the public key also goes into a file of its name with .pub.
    """
    from kropot.checkpoints.keys import write_signing_key
    from kropot.checkpoints.paths import default_key_path
    from ledger.errors import BadCheckpointError
    from ledger.note import SigningKey

    if name is None or key_file is None:
        with open_ledger(settings, read_only=True) as ledger:
            name = name or _origin(ledger)
            key_file = key_file or default_key_path(ledger.identity().ledger_id)
    try:
        key = SigningKey.generate(name, os.urandom)
    except BadCheckpointError as error:
        raise UsageError(error.why) from None
    public, key = write_signing_key(key_file, key)
    if settings.json:
        emit_json({"verifier_key": key.verifier.text, "key_file": str(key_file), "public_key_file": str(public)})
        return
    emit(key.verifier.text)
    say(f"the signing key is in {key_file}: keep it, and keep the line above where checkpoints will be verified")


@command.command("sign")
@click.option("--key", "key_file", type=_FILE, help=_KEY_HELP)
@click.option("--to", "folders", type=_FOLDER, multiple=True, help="Write the checkpoint here too; may be repeated.")
def sign(settings: Settings, *, key_file: Path | None, folders: tuple[Path, ...]) -> None:
    """Sign the ledger's head, unless it does not extend what was signed before.

    The signer keeps what it signed last in a file beside the key, which must lie in a folder that can be written. It
    computes the tree from there itself, and never signs what the database only claims. The first signing reads the
    whole ledger, about a minute for every 10 million events.

    The checkpoint is printed, kept in the database, and written to each --to as a new numbered file; no file is ever
    overwritten. Exits 4 and signs nothing if the ledger is not an extension of everything that this key signed, if the
    database's head is not the tree of its events, or if the history beside the objects in the storage path differs.
    """
    from kropot.checkpoints.folder import CheckpointFolder
    from kropot.checkpoints.keys import read_signing_key
    from kropot.checkpoints.paths import default_key_path
    from kropot.checkpoints.signing import sign_head

    with open_ledger(settings) as ledger:
        key_file = key_file or default_key_path(ledger.identity().ledger_id)
        key = read_signing_key(key_file)
        # Without a folder that remembers, this is what an older copy of the database is caught by.
        storage_of(settings).segments().check(ledger)
        signed = sign_head(ledger, key, key_file, [CheckpointFolder(folder) for folder in folders], say=say)
    if settings.json:
        checkpoint = signed.checkpoint
        emit_json(
            {
                "origin": checkpoint.origin,
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "note": signed.note.decode(),
                "files": [str(path) for path in signed.paths],
            }
        )
        return
    emit(signed.note.decode().rstrip("\n"))
    for path in signed.paths:
        say(f"written to {path}")


@command.command("list")
@click.option("--public-key", metavar="KEY", help="Verify the signatures with this key, given as text or file.")
@click.option("--from", "folders", type=_FOLDER, multiple=True, help="List a folder instead of the database's own.")
def list_(settings: Settings, *, public_key: str | None, folders: tuple[Path, ...]) -> None:
    """List the checkpoints in the database, or those in folders, the oldest first."""
    from kropot.checkpoints.folder import CheckpointFolder
    from kropot.checkpoints.keys import read_verifier_key

    key = None if public_key is None else read_verifier_key(public_key)
    if folders:
        notes = [(str(each.path), each.note) for folder in folders for each in CheckpointFolder(folder).exported()]
    else:
        with open_ledger(settings, read_only=True) as ledger:
            notes = [("database", note.encode()) for _, note in ledger.blobs.checkpoints()]
    for row in _rows(notes, key):
        if settings.json:
            emit_json(row)
        else:
            shown = "no checkpoint" if row["size"] is None else f"{number(row['size'], 'event')}  root {row['root']}"
            emit(f"{shown}  {row['signature']}  {row['where']}")
    if not notes and not settings.json:
        emit("no checkpoints yet")


def _origin(ledger: Ledger) -> str:
    from ledger.checkpoint import origin_of

    return origin_of(ledger.identity().ledger_id)


def _rows(notes: list[tuple[str, bytes]], key: VerifierKey | None) -> Iterator[dict[str, Any]]:
    from ledger.checkpoint import open_checkpoint, unverified_checkpoint
    from ledger.errors import BadCheckpointError

    for where, note in notes:
        row: dict[str, Any] = {"where": where, "origin": None, "size": None, "root": None, "signature": "not checked"}
        try:
            checkpoint = unverified_checkpoint(note)
            row |= {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}
            if key is not None:
                open_checkpoint(note, key)
                row["signature"] = "good"
        except BadCheckpointError as error:
            row["signature"] = error.why
        yield row
