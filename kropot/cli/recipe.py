"""`kropotcli recipe`: prints how to open one copy with openssl, without this program."""

from __future__ import annotations

from pathlib import Path

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger, say, storage_of
from kropot.cli.base import command as define
from kropot.cli.copies import read_kits
from kropot.cli.moments import moment_of, until_option
from kropot.errors import PartialError
from kropot.query.names import find_element


@define("recipe")
@click.argument("element")
@click.option(
    "--key",
    "kit",
    type=click.Path(path_type=Path),
    metavar="KIT.json",
    help="The token's kit, which names the digest and the rounds. Its secret is not printed.",
)
@until_option
def command(settings: Settings, *, element: str, kit: Path | None, until: str | None) -> Exit:
    """Print the commands that check and open one stored copy, with $KEY in place of the secret.

    ELEMENT is [SOURCE:]ID. Without a kit, the commands use the server's usual digest and rounds (sha512, 6000).
    """
    from kropot.restore.claims import sealed_text
    from kropot.restore.element_copy import held_of
    from kropot.restore.recipe import ByteRange, recipes
    from kropot.sc2.kit import CbcKey
    from kropot.sc2.layout import is_list_form

    stretch = ByteRange()
    if kit is not None:
        known = next((key.kit for key in read_kits([kit]) if isinstance(key, CbcKey)), None)
        if known is not None:
            stretch = ByteRange(digest=known.digest, rounds=known.rounds)
    with open_ledger(settings, read_only=True) as ledger:
        key = find_element(ledger, element)
        held = held_of(ledger, key, moment_of(ledger, until).position)
    if held is None or held.sha256 is None:
        raise PartialError(
            f"no copy of {element} was stored at that moment: run `kropotcli history {element}` to see what happened"
        )
    sealed = storage_of(settings).object_place(held.sha256)
    envelope = sealed_text(held.form)
    if envelope is not None and is_list_form(envelope):
        return _show_page(settings, envelope, sealed)
    steps = list(recipes(iv=held.iv, sealed=sealed, sha256=held.sha256, envelope=envelope, stretch=stretch))
    if held.iv is not None and kit is None:
        say(
            f"these commands assume {stretch.digest} and {stretch.rounds} rounds: if the token uses others, give its "
            "kit with --key"
        )
    if settings.json:
        emit_json({"object": sealed, "steps": [{"what": what, "command": line} for what, line in steps]})
        return Exit.DONE
    if held.iv is not None:
        emit("# KEY is the token's secureCopyEncryptionKey:  export KEY='...'")
    for what, line in steps:
        emit(f"# {what}\n{line}")
    return Exit.DONE


def _show_page(settings: Settings, envelope: str, sealed: str) -> Exit:
    """Print the page for an object of sc2."""
    from kropot.sc2.layout import list_form_bytes, parse_header
    from kropot.sc2.recipe import recipe

    page = recipe(parse_header(list_form_bytes(envelope)))
    if settings.json:
        emit_json({"object": sealed, "page": page})
    else:
        emit(f"The object is the file {sealed}.")
        for line in page.splitlines():
            emit(line)
    return Exit.DONE
