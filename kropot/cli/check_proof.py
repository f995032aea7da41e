"""`kropotcli check-proof`: what a proof proves, in words, with nothing but the signer's public key."""

from __future__ import annotations

from pathlib import Path

import click

from kropot.cli.base import Settings, emit, emit_json
from kropot.cli.base import command as define
from kropot.durable.dirfd import open_named
from kropot.errors import UsageError


@define("check-proof")
@click.argument("proof", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--public-key", metavar="KEY", required=True, help="The signer's public key, as text or file.")
def command(settings: Settings, *, proof: Path, public_key: str) -> None:
    """Check a PROOF that `prove` or `consistency` made, and say in words what it proves.

    Needs no database, no storage and no key to any content; - reads the proof from standard input. Exits 4 if it
    proves nothing.
    """
    from kropot.checkpoints.keys import read_verifier_key
    from kropot.proofs import check_proof
    from kropot.proofs.check import MAX_BYTES

    key = read_verifier_key(public_key)
    try:
        with click.open_file("-", "rb") if str(proof) == "-" else open_named(proof) as file:
            document = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the proof {proof} cannot be read: {error.strerror}") from error
    if len(document) > MAX_BYTES:
        raise UsageError(f"{proof} has more than {MAX_BYTES >> 20} MiB: that is too much for a proof")
    proved = check_proof(document, key)
    if settings.json:
        emit_json(proved.facts)
        return
    for sentence in proved.sentences:
        emit(sentence)
