"""`kropotcli decrypt`: open one stored object."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from kropot.cli.base import Exit, Settings, emit_json, open_ledger, say
from kropot.cli.base import command as define
from kropot.cli.giving import copies_of, read_kits
from kropot.cli.moments import moment_of, until_option
from kropot.cli.output import is_terminal
from kropot.durable.dirfd import open_named
from kropot.errors import PartialError, UsageError, WrongKeyError
from kropot.query.names import find_element

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kropot.replay.copies import HeldCopy
    from kropot.securecopy.sealing import Kit


@define("decrypt")
@click.argument("what", metavar="FILE|ELEMENT")
@click.option(
    "--key",
    "kits",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="KIT.json",
    help="The JSON of the request that made the token; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write here, to a file that does not exist yet; to stdout if not given.",
)
@click.option("--iv", "iv_text", metavar="HEX", help="The IV of a FILE that neither an export nor the ledger knows.")
@until_option
def command(
    settings: Settings,
    *,
    what: str,
    kits: tuple[Path, ...],
    output: Path | None,
    iv_text: str | None,
    until: str | None,
) -> Exit:
    """Decrypt one stored object, named as a file or as the element ([SOURCE:]ID) whose copy it is.

    A FILE is one of an export, of the storage, or any other, whose IV is then given with --iv. What stdout got is
    whole only if the exit code is 0.
    """
    if output is None and is_terminal(sys.stdout):
        raise UsageError("the content would go to the terminal: name a file with -o, or redirect stdout")
    if output is None and settings.json:
        raise UsageError("with --json the content needs a file of its own: name it with -o")
    with ExitStack() as stack:
        path = Path(what)
        if _is_file(path):
            if until is not None:
                raise UsageError("a FILE is what it is at any time: --until goes with an ELEMENT")
            held = _of_file(settings, path, iv_text)
            source: BinaryIO = stack.enter_context(open_named(path))
        else:
            held, source = _of_element(settings, stack, what, until)
        kit = _fitting(held, source, read_kits(kits))
        return _open(settings, held, source, kit, output)


def _open(settings: Settings, held: HeldCopy, source: BinaryIO, kit: Kit | None, output: Path | None) -> Exit:
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
        raise UsageError(f"{output} exists: nothing is overwritten, name another file with -o") from None
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    if settings.json:
        emit_json({"output": str(output), "size": content.size, "sha256": content.sha256.hex()})
    else:
        say(f"{output}: {content.size:,} bytes")
    return Exit.DONE


def _of_file(settings: Settings, path: Path, iv_text: str | None) -> HeldCopy:
    """Return what is known of a file. Raises: UsageError where its IV is not."""
    from kropot.restore.loose import hash_of, in_export, in_ledger, unknown
    from kropot.securecopy.iv import parse_iv
    from ledger.errors import LedgerError

    sha256, size = hash_of(path)
    if iv_text is not None:
        iv = parse_iv(iv_text.lower())
        if iv is None:
            raise UsageError("--iv takes 32 hexadecimal digits")
        return unknown(path, sha256, size, iv)
    held = in_export(path)
    if held is not None:
        return held
    try:
        with open_ledger(settings, read_only=True) as ledger:
            held = in_ledger(ledger, sha256)
    except LedgerError as error:
        raise UsageError(f"the IV of {path} is in no export's manifest and {error}: give it with --iv") from None
    if held is None:
        raise UsageError(
            f"{path} is damaged, or not a copy that the ledger at {settings.place} recorded: give its IV with --iv"
        )
    return held


def _of_element(settings: Settings, stack: ExitStack, what: str, until: str | None) -> tuple[HeldCopy, BinaryIO]:
    """Return what was held of an element, and its object. Raises: PartialError where nothing was."""
    from kropot.restore.one import held_of

    with open_ledger(settings, read_only=True) as ledger:
        key = find_element(ledger, what)
        held = held_of(ledger, key, moment_of(ledger, until).position)
    if held is None or held.sha256 is None:
        raise PartialError(f"no copy of {what} was stored at that moment; kropotcli history shows what happened")
    copies = stack.enter_context(copies_of(settings))
    return held, stack.enter_context(copies.open(held))


def _fitting(held: HeldCopy, source: BinaryIO, kits: Sequence[Kit]) -> Kit | None:
    """Return the kit that opens this copy, None where it is not encrypted. Raises: WrongKeyError where none does."""
    from kropot.restore.claims import sealed_text
    from kropot.restore.opener import NoKitError, open_claim, plain_size

    if held.iv is None:
        return None
    if sealed_text(held.form) is not None:
        try:
            return open_claim(held, kits).kit
        except NoKitError:
            raise WrongKeyError("the key does not open this element: give the kit of its token") from None
    for kit in kits:
        if plain_size(source, held=held, kit=kit) is not None:
            return kit
    raise WrongKeyError("the key does not open this file, or its IV is another one")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
