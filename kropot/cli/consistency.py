"""`kropotcli consistency`: proves that the ledger only grew between two checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from kropot.cli.base import Settings, emit_document, open_ledger, say, warn
from kropot.cli.base import command as define
from kropot.cli.prove import read_checkpoint


@define("consistency")
@click.argument("older", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("newer", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--public-key", metavar="KEY", help="Also verify both signatures with this public key: the key itself or a file."
)
def command(settings: Settings, *, older: Path, newer: Path, public_key: str | None) -> None:
    """Prove that events were only appended between the checkpoints OLDER and NEWER.

    This prints a JSON document. `kropotcli check-proof` checks it with only the public key. If the ledger does not
    match both checkpoints, the exit code is 4.
    """
    from kropot.checkpoints.keys import read_verifier_key
    from kropot.errors import IntegrityError
    from kropot.proofs import prove_consistency
    from kropot.proofs.check import check_growth
    from ledger.checkpoint import open_checkpoint
    from ledger.errors import BadCheckpointError

    old, new = read_checkpoint(older), read_checkpoint(newer)
    key = None if public_key is None else read_verifier_key(public_key)
    if key is not None:
        for path, (_, note) in ((older, old), (newer, new)):
            try:
                open_checkpoint(note, key)
            except BadCheckpointError as error:
                raise IntegrityError(
                    f"{path}: {error.why}; check that this file and --public-key belong together"
                ) from None
    with open_ledger(settings, read_only=True) as ledger:
        document = prove_consistency(ledger, old, new)
    emit_document(document)
    if key is None:
        warn(
            "the signatures of the checkpoints were not verified: give --public-key, or check the proof with "
            "`kropotcli check-proof`"
        )
        return
    path_ = tuple(bytes.fromhex(node) for node in document["path"])
    for sentence in check_growth(old[0], new[0], path_, key).sentences:
        say(sentence)
