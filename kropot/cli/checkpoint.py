"""`kropotcli checkpoint`: makes a signing key, signs the head, lists checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kropot.cli.base import Settings, emit, emit_json, group, open_ledger, say, storage_of
from kropot.cli.output import emit_summary
from kropot.errors import UsageError
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.log import Ledger
    from ledger.note import VerifierKey

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_KEY_HELP = "The file with the signing key. Default: a file for this ledger in your configuration folder."


@group("checkpoint")
def command() -> None:
    """Sign the state of the ledger, and list the signatures.

    A checkpoint is a small signed text. It names the ledger, the number of its events and their Merkle root. Keep it on
    another machine or medium. It then reveals any later change to the history it covers, and an older copy of the
    database in its place.
    """


@command.command("init")
@click.option("--key", "key_file", type=_FILE, help=_KEY_HELP)
@click.option("--name", help="The name to sign under. Default: the name of the ledger, which must exist.")
def init(settings: Settings, *, key_file: Path | None, name: str | None) -> None:
    """Make a signing key, and print the public key.

    Others verify your checkpoints with the public key. Only you can read the file with the signing key (mode 0600). The
    public key is also written beside it, with .pub added to the file's name.
    """
    from kropot.checkpoints.keys import write_signing_key
    from ledger.errors import BadCheckpointError
    from ledger.note import SigningKey

    if name is None or key_file is None:
        with open_ledger(settings, read_only=True) as ledger:
            name = name or _origin(ledger)
            key_file = key_file or _default_key(ledger)
    try:
        key = SigningKey.generate(name, os.urandom)
    except BadCheckpointError as error:
        raise UsageError(error.why) from None
    public, key = write_signing_key(key_file, key)
    if settings.json:
        emit_json(
            "checkpoint_key",
            {"verifier_key": key.verifier.text, "key_file": str(key_file), "public_key_file": str(public)},
        )
        return
    emit(key.verifier.text)
    say(
        f"the signing key is in {key_file}: keep it safe, and store the public key above where you will verify "
        "checkpoints"
    )


@command.command("sign")
@click.option("--key", "key_file", type=_FILE, help=_KEY_HELP)
@click.option(
    "--to",
    "folders",
    type=_FOLDER,
    multiple=True,
    help="Also write the checkpoint to this folder, which must exist. Can be repeated.",
)
@click.option(
    "--accept-erasures",
    "accepted",
    metavar="POSITION",
    type=click.IntRange(min=0),
    default=0,
    help="Accept every erasure up to this position: you asked for all of them.",
)
def sign(settings: Settings, *, key_file: Path | None, folders: tuple[Path, ...], accepted: int) -> None:
    """Sign the ledger's head, if it extends what was signed before.

    The signer keeps what it signed last in a file beside the key, so it must be able to write to the key's folder. From
    then on it computes the tree itself, and never signs what the database only claims. The first signing reads the
    whole ledger. This takes about a minute for every 10 million events.

    This prints the checkpoint, keeps it in the database, and writes it to each --to folder as a new numbered file. It
    never overwrites a file, and never creates the folder, which could be the mount point of a disk that is away. If a
    folder is missing, or held checkpoints before and is empty now, the other folders are written, and the exit code is
    1.

    Nothing is signed and the exit code is 4 if the ledger does not extend everything that this key signed, or the
    segments in the storage, or if the database's head is not the tree of its events.

    Nothing is signed either while the ledger has an erasure that this key has not accepted. The message names the
    positions. If you asked for these erasures, sign with --accept-erasures.
    """
    from kropot.checkpoints.folder import CheckpointFolder
    from kropot.checkpoints.keys import read_signing_key
    from kropot.checkpoints.signing import sign_head

    with open_ledger(settings) as ledger:
        key_file = key_file or _default_key(ledger)
        key = read_signing_key(key_file)
        # If the signer has no state yet, only the segments expose an older copy of the database.
        storage_of(settings).segments().check(ledger)
        signed = sign_head(
            ledger, key, key_file, [CheckpointFolder(folder) for folder in folders], accepted=accepted, say=say
        )
    if settings.json:
        checkpoint = signed.checkpoint
        emit_json(
            "checkpoint_signed",
            {
                "origin": checkpoint.origin,
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "note": signed.note.decode(),
                "files": [str(path) for path in signed.paths],
            },
        )
        return
    emit_summary(signed.note.decode().rstrip("\n"))
    for path in signed.paths:
        say(f"wrote {path}")


@command.command("list")
@click.option(
    "--public-key", metavar="KEY", help="Verify the signatures with this public key: the key itself or a file."
)
@click.option(
    "--from",
    "folders",
    type=_FOLDER,
    multiple=True,
    help="List the checkpoints in this folder, not those in the database. Can be repeated.",
)
def list_(settings: Settings, *, public_key: str | None, folders: tuple[Path, ...]) -> None:
    """List the checkpoints in the database or in folders, oldest first."""
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
            emit_json("checkpoint", row)
        else:
            shown = "not a checkpoint" if row["size"] is None else f"{number(row['size'], 'event')}  root {row['root']}"
            emit(f"{shown}  {row['signature']}  {row['where']}")
    if not notes and not settings.json:
        emit("no checkpoints yet: `kropotcli checkpoint sign` makes one")


def _default_key(ledger: Ledger) -> Path:
    """Return the default path of the ledger's key. Raises: UsageError if the user has no home."""
    from kropot.checkpoints.paths import default_key_path

    path = default_key_path(ledger.identity().ledger_id)
    if path is None:
        raise UsageError("this user has no home, so there is no default place for the key: name the key with --key")
    return path


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
