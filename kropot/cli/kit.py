"""`kropotcli kit`: what a kit holds, kits on paper, and the passphrase of a kit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kropot.cli.base import Settings, emit, emit_json, group, say, warn, warn_if_exposed
from kropot.cli.kit_check import check
from kropot.cli.kit_files import read_kit_file, write_secret
from kropot.cli.passphrases import Passphrases, ask_passphrase, passphrase_option, read_passphrase
from kropot.cli.paths import PATH
from kropot.durable.dirfd import open_named
from kropot.errors import IntegrityError, UsageError
from kropot.sc2.kit import MAX_KIT, CbcKey, OwnerKit
from kropot.sc2.kits import parse_kit
from kropot.sc2.passphrase import LockedKit, lock
from kropot.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_TEXT: Final = 4 * MAX_KIT
_SHOWS_KEYS: Final = "whoever sees this can open the backup"

_out = click.option("-o", "--output", type=PATH, required=True, metavar="OUT", help="Write the kit to this new file.")


@group("kit")
def command() -> None:
    """Show kits, print them, read them from paper, give them a passphrase, and test them.

    A kit is the file that opens the copies. The gateway writes it when it makes a token or a vault. Keep it off-line,
    in more than one place, e.g. on paper.
    """


command.add_command(check)


@command.command("show")
@click.argument("kit", type=PATH)
@click.option(
    "--paper", is_flag=True, help="Print the kit as text that can be typed in again, with a checksum in each line."
)
@click.option("--qr", is_flag=True, help="Print the kit as a QR code. This needs the package segno.")
@click.option("--svg", type=PATH, metavar="FILE", help="Write the QR code to this new file, for printing.")
@passphrase_option
def show(
    settings: Settings, *, kit: Path, paper: bool, qr: bool, svg: Path | None, passphrase_files: tuple[Path, ...]
) -> None:
    """Show what KIT holds, without its keys.

    With --paper, --qr or --svg, this prints the kit itself: its keys, or, if the kit is locked, what its passphrase
    opens. `kropotcli kit read` turns that into a kit again. A locked kit needs --passphrase-file to show the rest.
    """
    data, found = read_kit_file(kit)
    if paper or qr or svg is not None:
        if settings.json:
            raise UsageError("--json never shows a key: leave it out, or leave out --paper, --qr and --svg")
        _print(data, is_locked=isinstance(found, LockedKit), paper=paper, qr=qr, svg=svg)
        return
    if isinstance(found, LockedKit) and passphrase_files:
        opened: OwnerKit | LockedKit = Passphrases(passphrase_files).open(found)
    else:
        opened = found
    if settings.json:
        emit_json("kit", _described(found, opened))
    else:
        for line in _lines(found, opened):
            emit(line)


@command.command("read")
@click.argument("text", metavar="TEXT", type=click.Path(path_type=Path, allow_dash=True))
@_out
def read(settings: Settings, *, text: Path, output: Path) -> None:
    """Make a kit from the printed TEXT, a file or - for standard input.

    TEXT is what `kropotcli kit show --paper` printed, typed in with the line numbers and checksums. A mistyped or
    missing line is named. TEXT can also be the content of the QR code.
    """
    from kropot.sc2.paper import from_paper

    typed = _typed(text)
    # A QR code holds the kit itself, without the line break at its end.
    data = typed.strip().encode() + b"\n" if typed.lstrip().startswith("{") else from_paper(typed)
    found = parse_kit(data, name=f"in {'standard input' if str(text) == '-' else text}")
    write_secret(output, data, "-o")
    _wrote(settings, output, found)


@command.command("passphrase")
@click.argument("kit", type=PATH)
@_out
@click.option("--remove", is_flag=True, help="Write the kit without a passphrase.")
@passphrase_option
@click.option(
    "--new-passphrase-file",
    "new_file",
    type=PATH,
    metavar="FILE",
    help="Read the new passphrase from this file, e.g. /dev/fd/4. Default: ask for it twice on the terminal.",
)
def passphrase_(
    settings: Settings,
    *,
    kit: Path,
    output: Path,
    remove: bool,
    passphrase_files: tuple[Path, ...],
    new_file: Path | None,
) -> None:
    """Write KIT with a passphrase, with a different one, or without one.

    The passphrase has at least 12 characters. It locks the keys in the file, which stay the same: nothing is sealed or
    fetched again. Nobody can open the copies without it, so write it down. KIT itself stays as it is. Once you have
    tried the new kit, delete KIT and its copies on paper.
    """
    if remove and new_file is not None:
        raise UsageError("--remove sets no passphrase: leave out --new-passphrase-file")
    _, found = read_kit_file(kit)
    if not isinstance(found, LockedKit) and (remove or passphrase_files):
        raise UsageError(f"the kit {kit} has no passphrase: leave out {'--remove' if remove else '--passphrase-file'}")
    opened = Passphrases(passphrase_files).open(found) if isinstance(found, LockedKit) else found
    if remove:
        made: OwnerKit | LockedKit = opened
        before = "opens with its passphrase"
    else:
        made = _locked(opened, kit, new_file)
        before = "opens with the older passphrase" if isinstance(found, LockedKit) else "opens without a passphrase"
    write_secret(output, made.encode(), "-o")
    _wrote(settings, output, made)
    say(f"{kit} still {before}: once you have tried {output}, delete it and its copies on paper")


# --- passphrases -----------------------------------------------------------------------------------------------------


def _locked(opened: OwnerKit, kit: Path, new_file: Path | None) -> LockedKit:
    """Return the kit locked with a new passphrase, after opening it once as a test. Raises: UsageError."""
    if new_file is not None:
        passphrase = read_passphrase(new_file)
    else:
        passphrase = ask_passphrase(
            f"new passphrase of the kit {kit}",
            f"the kit {kit} needs a new passphrase",
            twice=True,
            option="--new-passphrase-file",
        )
    made = lock(opened, passphrase)
    # It can become the only kit, so make sure that it opens.
    again = parse_kit(made.encode(), name=str(kit))
    if not isinstance(again, LockedKit) or again.open(passphrase) != opened:
        raise IntegrityError(f"the locked kit of {kit} cannot be opened again, and nothing was written: report this")
    return made


def _wrote(settings: Settings, output: Path, made: OwnerKit | LockedKit) -> None:
    is_locked = isinstance(made, LockedKit)
    if settings.json:
        emit_json("kit_file", {"kit": str(output.absolute()), "locked": is_locked, "vault": _vault(made)})
    else:
        how = "its passphrase opens it" if is_locked else "it has no passphrase"
        say(f"the kit is in {output}, and {how}: move this file off-line")


# --- what a kit holds ------------------------------------------------------------------------------------------------


def _print(data: bytes, *, is_locked: bool, paper: bool, qr: bool, svg: Path | None) -> None:
    """Print the kit itself: the file's bytes, whatever their format."""
    from kropot.sc2.paper import to_paper, to_qr

    drawn = to_qr(data) if qr else None
    if svg is not None:
        write_secret(svg, to_qr(data, svg=True).encode(), "--svg")
        say(f"the QR code is in {svg}: print it, and delete the file")
    if paper:
        emit(to_paper(data).rstrip("\n"))
    if drawn is not None:
        emit(drawn.rstrip("\n"))
    if not is_locked:
        warn(f"{_SHOWS_KEYS}: first give the kit a passphrase with `kropotcli kit passphrase`")


def _described(found: OwnerKit | LockedKit, opened: OwnerKit | LockedKit) -> dict[str, Any]:
    """Return what a kit holds, for JSON. What is not known without the passphrase is null."""
    stretch = found.stretch if isinstance(found, LockedKit) else None
    known = None if isinstance(opened, LockedKit) else opened
    return {
        "locked": stretch is not None,
        "argon2id": None
        if stretch is None
        else {"memory_kib": stretch.memory_kib, "passes": stretch.passes, "lanes": stretch.lanes},
        "vault": _vault(opened),
        "key_ids": None if known is None else [] if known.vault is None else [id_.hex() for id_ in known.vault.key_ids],
        "cbc": None if known is None else [_cbc(each) for each in known.cbc],
        "verifier": None if known is None else known.verifier,
    }


def _lines(found: OwnerKit | LockedKit, opened: OwnerKit | LockedKit) -> Iterator[str]:
    """Yield what a kit holds, as lines of text."""
    vault = _vault(opened)
    if vault is not None:
        yield f"vault     {vault}"
    if isinstance(opened, OwnerKit):
        if opened.vault is not None:
            ids = ", ".join(id_.hex() for id_ in opened.vault.key_ids)
            yield f"masters   {len(opened.vault.masters)}, the newest last: {ids}"
        for each in dict.fromkeys(f"{key.kit.method}, {key.kit.digest}, {_cbc_text(key)}" for key in opened.cbc):
            yield f"cbc key   {each}"
        if opened.verifier is not None:
            yield f"verifier  {opened.verifier}"
    if isinstance(found, LockedKit):
        memory, passes = f"{found.stretch.memory_kib >> 10} MiB", number(found.stretch.passes, "pass")
        yield f"locked    its passphrase opens it (Argon2id, {memory}, {passes.replace('passs', 'passes')})"
    else:
        yield "locked    no: whoever has this file can open the backup (`kropotcli kit passphrase` locks it)"


def _vault(kit: OwnerKit | LockedKit) -> str | None:
    if isinstance(kit, LockedKit):
        return None if kit.vault is None else kit.vault.hex()
    return None if kit.vault is None else kit.vault.id.hex()


def _cbc(key: CbcKey) -> dict[str, Any]:
    return {
        "method": key.kit.method,
        "digest": key.kit.digest,
        "rounds": key.kit.rounds,
        "stored_salt": key.stored_salt is not None,
    }


def _cbc_text(key: CbcKey) -> str:
    salt = "with the stored salt" if key.stored_salt is not None else "without the stored salt, so names are not proved"
    return f"{number(key.kit.rounds, 'round')}, {salt}"


def _typed(path: Path) -> str:
    """Return the text in a file or on standard input. Raises: UsageError."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(_LONGEST_TEXT + 1)
    else:
        try:
            with open_named(path) as file:
                data = file.read(_LONGEST_TEXT + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from None
        warn_if_exposed("kit as text in", path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8: type the lines that `kit show --paper` printed") from None
