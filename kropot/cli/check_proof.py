"""`kropotcli check-proof`: checks a proof with only the signer's public key, and says what it proves."""

from __future__ import annotations

from pathlib import Path

import click

from kropot.cli.base import Settings, emit, emit_json
from kropot.cli.base import command as define
from kropot.cli.paths import read_named
from kropot.errors import UsageError
from kropot.query.render import proved_json


@define("check-proof")
@click.argument("proof", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--public-key", metavar="KEY", required=True, help="The signer's public key: the key itself or a file.")
def command(settings: Settings, *, proof: Path, public_key: str) -> None:
    """Check a PROOF made by `prove` or `consistency`, and say what it proves.

    PROOF is a file. Use - for standard input. You need only the signer's public key: no database, no storage, no kit.
    The exit code is 4 if the proof is not valid.
    """
    from kropot.checkpoints.keys import read_verifier_key
    from kropot.proofs import check_proof
    from kropot.proofs.check import MAX_BYTES

    key = read_verifier_key(public_key)
    document = read_named("the proof", proof, MAX_BYTES + 1, dash=True)
    if len(document) > MAX_BYTES:
        raise UsageError(
            f"{proof} is larger than {MAX_BYTES >> 20} MiB, so it is not a proof: "
            "give the JSON document that `prove` or `consistency` printed"
        )
    proved = check_proof(document, key)
    if settings.json:
        emit_json("proved", proved_json(proved.facts))
        return
    for sentence in proved.sentences:
        emit(sentence)
