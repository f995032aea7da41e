"""`kropotcli decrypt`: opens one stored object."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from kropot.cli.base import Exit, Settings, emit_json, open_ledger, say
from kropot.cli.base import command as define
from kropot.cli.copies import named_copy, open_copies, read_kits
from kropot.cli.moments import until_option
from kropot.cli.output import is_terminal
from kropot.cli.passphrases import passphrase_option
from kropot.durable.dirfd import open_named
from kropot.errors import UsageError, WrongKeyError
from kropot.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.replay.copies import HeldCopy
    from kropot.restore.opener import Key


@define("decrypt")
@click.argument("what", metavar="FILE|ELEMENT")
@click.option(
    "--key",
    "kits",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="KIT.json",
    help="The token's kit: the JSON of the request that made the token. Can be repeated.",
)
@passphrase_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write to this new file. Default: stdout.",
)
@click.option(
    "--iv", "iv_text", metavar="HEX", help="The IV of FILE. Needed if neither an export nor the ledger knows it."
)
@until_option
def command(
    settings: Settings,
    *,
    what: str,
    kits: tuple[Path, ...],
    passphrase_files: tuple[Path, ...],
    output: Path | None,
    iv_text: str | None,
    until: str | None,
) -> Exit:
    """Decrypt one stored object.

    Name the object by a FILE, or by an ELEMENT, which is [SOURCE:]NAME or [SOURCE:]ID. The beginning of an ID or the
    end of a NAME is enough. If FILE is neither in an export nor in the storage, give its IV with --iv. The output on
    stdout is complete only if the exit code is 0.
    """
    if output is None and is_terminal(sys.stdout):
        raise UsageError("the content would be written to the terminal: name a file with -o, or redirect stdout")
    if output is None and settings.json:
        raise UsageError("--json and the content cannot both go to stdout: name a file for the content with -o")
    keys = read_kits(kits, passphrase_files)
    with ExitStack() as stack:
        path = Path(what)
        if _is_file(path):
            if until is not None:
                raise UsageError(f"--until does not work with the file {what}: leave it out, or name an element")
            held = _held_of_file(settings, path, iv_text)
            source: BinaryIO = stack.enter_context(open_named(path))
        else:
            held, source = _open_element(settings, stack, what, until, keys)
        kit = _find_kit(held, source, keys)
        return _write_content(settings, held, source, kit, output)


def _write_content(settings: Settings, held: HeldCopy, source: BinaryIO, kit: Key | None, output: Path | None) -> Exit:
    from kropot.durable.newfile import new_file
    from kropot.restore.opener import copy_content

    source.seek(0)
    if output is None:
        copy_content(source, sys.stdout.buffer.write, held=held, kit=kit)
        sys.stdout.buffer.flush()
        return Exit.DONE
    try:
        with new_file(output) as file:
            content = copy_content(source, file.write, held=held, kit=kit)
    except FileExistsError:
        raise UsageError(f"{output} exists and was not overwritten: name a new file with -o") from None
    except OSError as error:
        raise UsageError(f"cannot write {output} ({error.strerror}): name another file with -o") from None
    if settings.json:
        emit_json("decrypted", {"output": str(output), "size": content.size, "sha256": content.sha256.hex()})
    else:
        say(f"wrote {output} ({content.size:,} bytes)")
    return Exit.DONE


def _held_of_file(settings: Settings, path: Path, iv_text: str | None) -> HeldCopy:
    """Return what is known about a file. Raises: UsageError if its IV is not known."""
    from kropot.restore.identify import hash_of, in_export, in_header, in_ledger, unknown
    from kropot.securecopy.iv import parse_iv
    from ledger.errors import LedgerError

    sha256, size = hash_of(path)
    if iv_text is not None:
        iv = parse_iv(iv_text.lower())
        if iv is None:
            raise UsageError("the value of --iv is not an IV: give 32 hexadecimal digits")
        return unknown(path, sha256, size, iv)
    held = in_export(path)
    if held is None:
        held = in_header(path, sha256, size)
    if held is not None:
        return held
    try:
        with open_ledger(settings, read_only=True) as ledger:
            held = in_ledger(ledger, sha256)
    except LedgerError as error:
        raise UsageError(
            f"the IV of {path} is not known: it is not in an export's manifest, and the ledger could not be asked "
            f"({error}); give the IV with --iv"
        ) from None
    if held is None:
        raise UsageError(
            f"the IV of {path} is not known: the file is damaged, or the ledger at {settings.place} does not have this "
            "copy; give the IV with --iv"
        )
    return held


def _open_element(
    settings: Settings, stack: ExitStack, what: str, until: str | None, keys: Sequence[Key]
) -> tuple[HeldCopy, BinaryIO]:
    """Return the copy of an element, and its open object. Raises: PartialError if no copy was stored."""
    with open_ledger(settings, read_only=True) as ledger:
        held, _ = named_copy(ledger, what, keys, until)
    copies = stack.enter_context(open_copies(settings))
    return held, stack.enter_context(copies.open(held))


def _find_kit(held: HeldCopy, source: BinaryIO, kits: Sequence[Key]) -> Key | None:
    """Return the kit that opens this copy, or None if it is not encrypted. Raises: WrongKeyError if no kit opens it."""
    from kropot.restore.authentic import NoKitError
    from kropot.restore.claims import sealed_text
    from kropot.restore.identify import header_of
    from kropot.restore.opener import open_claim, plain_size
    from kropot.sc2.vault import Vault

    if sealed_text(held.form) is not None:
        try:
            return open_claim(held, kits).kit
        except NoKitError as error:
            whose = "its token" if error.vault is None else f"the vault {error.vault.hex()}"
            raise WrongKeyError(
                f"no given kit opens element {quoted(held.key.id)}: give the kit of {whose} with --key"
            ) from None
    if (header := header_of(source)) is not None:
        vault = next((kit for kit in kits if isinstance(kit, Vault) and kit.id == header.vault), None)
        if vault is None:
            raise WrongKeyError(
                f"no given kit opens this object: give the kit of the vault {header.vault.hex()} with --key"
            )
        return vault
    if held.iv is None:
        return None
    for kit in kits:
        if not isinstance(kit, Vault) and plain_size(source, held=held, kit=kit) is not None:
            return kit
    raise WrongKeyError("no given kit opens this object: check --key, and --iv if you gave it")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
