"""`kropotcli recipe`: prints how to open one copy without this program, with openssl or 40 lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kropot.cli.base import Exit, Settings, emit, emit_json, open_ledger, say, storage_of
from kropot.cli.base import command as define
from kropot.cli.copies import named_copy, read_kits
from kropot.cli.moments import until_option
from kropot.cli.passphrases import passphrase_option
from kropot.errors import WrongKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.restore.opener import Key
    from kropot.restore.recipe import ByteRange


@define("recipe")
@click.argument("element")
@click.option(
    "--key",
    "kit",
    type=click.Path(path_type=Path),
    metavar="KIT.json",
    help="The kit. With it, ELEMENT can be a name. The kit of a CBC token also tells the digest and the rounds. Its "
    "secret is not printed.",
)
@passphrase_option
@until_option
def command(
    settings: Settings, *, element: str, kit: Path | None, passphrase_files: tuple[Path, ...], until: str | None
) -> Exit:
    """Print the commands that check and open one stored copy. They contain no secret.

    ELEMENT is [SOURCE:]ID or, with --key, [SOURCE:]NAME. The beginning of an ID or the end of a NAME is enough. For a
    copy that sc2 sealed, this prints the format, and a short program that opens it with the kit in $KIT. For AES-CBC,
    openssl opens it, with the key in $KEY. Without a kit, the commands then use the server's usual digest and rounds
    (sha512, 6000).
    """
    from kropot.restore.claims import sealed_text
    from kropot.restore.recipe import cut_step, recipes
    from kropot.sc2.layout import is_list_form

    keys = [] if kit is None else read_kits([kit], passphrase_files)
    with open_ledger(settings, read_only=True) as ledger:
        held, sha256 = named_copy(ledger, element, keys, until)
        storage = storage_of(settings)
        within = storage.object_range(sha256, ledger.places)
    sealed, envelope = storage.object_place(sha256), sealed_text(held.form)
    cut: list[tuple[str, str]] = []
    if within is not None:
        sealed = f"{sha256.hex()}.sealed"
        cut = [cut_step(pack=within.path, offset=within.offset, length=within.length, sealed=sealed)]
    if envelope is not None and is_list_form(envelope):
        page, steps = _of_sc2(envelope, sealed, sha256, keys, kit)
        before = "KIT is the kit's file:  export KIT='...'"
    else:
        stretch = _stretch(keys, warn=held.iv is not None)
        page = ""
        steps = list(recipes(iv=held.iv, sealed=sealed, sha256=sha256, envelope=envelope, stretch=stretch))
        before = "" if held.iv is None else "KEY is the token's secureCopyEncryptionKey:  export KEY='...'"
    steps = [*cut, *steps]
    if settings.json:
        told = {"page": page} if page else {}
        emit_json(
            "recipe", {"object": sealed, **told, "steps": [{"what": what, "command": line} for what, line in steps]}
        )
        return Exit.DONE
    for line in (*page.splitlines(), *([before] if before else [])):
        emit(f"# {line}".rstrip())
    for what, line in steps:
        emit(f"# {what}\n{line}")
    return Exit.DONE


def _of_sc2(
    envelope: str, sealed: str, sha256: bytes, keys: Sequence[Key], kit: Path | None
) -> tuple[str, list[tuple[str, str]]]:
    """Return the page about an object of sc2, and the steps that check and open it. Raises: WrongKeyError."""
    from kropot.restore.recipe import digest_step
    from kropot.sc2.layout import list_form_bytes, parse_header
    from kropot.sc2.recipe import recipe, steps
    from kropot.sc2.vault import Vault

    header = parse_header(list_form_bytes(envelope))
    if kit is not None and header.vault not in {key.id for key in keys if isinstance(key, Vault)}:
        raise WrongKeyError(f"{kit} does not open this copy: give the kit of the vault {header.vault.hex()} with --key")
    return recipe(header), [digest_step(sealed=sealed, sha256=sha256), *steps(sealed=sealed)]


def _stretch(keys: Sequence[Key], *, warn: bool) -> ByteRange:
    """Return how the key of a CBC token is derived. With `warn`, tell the user if this is an assumption."""
    from kropot.restore.recipe import ByteRange
    from kropot.sc2.kit import CbcKey

    known = next((key.kit for key in keys if isinstance(key, CbcKey)), None)
    if known is not None:
        return ByteRange(digest=known.digest, rounds=known.rounds)
    usual = ByteRange()
    if warn:
        say(
            f"these commands assume {usual.digest} and {usual.rounds} rounds: if the token uses others, give its kit "
            "with --key"
        )
    return usual
