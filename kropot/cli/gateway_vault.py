"""`kropotcli gateway vault`: the vaults that tokens of sc2 seal with, their kits, and new masters for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kropot.cli import base
from kropot.cli.base import emit, emit_json, say, warn
from kropot.cli.gateway_book import book_options, kit_writer
from kropot.cli.paths import PATH
from kropot.wording import SECOND_US, instant

if TYPE_CHECKING:
    from pathlib import Path

    from kropot.cli.base import Settings
    from kropot.cli.gateway_book import BookPlace
    from kropot.gateway.vaults import HeldVault
    from kropot.sc2.kit import OwnerKit

_kit_option = click.option(
    "--kit",
    type=PATH,
    metavar="FILE",
    help="Write the kit to this new file. Default: a file in this folder, named after the vault.",
)


@base.group("vault")
def vault() -> None:
    """List the vaults of sc2 tokens, write their kits, and give them new masters."""


@vault.command("list", cls=base.KropotCommand)
@book_options
def list_(settings: Settings, *, place: BookPlace) -> None:
    """List the vaults, and the numbers of the tokens that seal with each."""
    with place.open() as book:
        tokens = book.all()
        vaults = book.vaults.all()
        rows = [
            _row(
                each, [token.number for token in tokens if token.held is not None and token.held.number == each.number]
            )
            for each in vaults
        ]
    if settings.json:
        for each, row in zip(vaults, rows, strict=True):
            emit_json("vault", row | {"made": instant(each.created_s * SECOND_US)})
        return
    for row in rows:
        emit(
            f"{row['id']}  made {row['made']}  masters: {row['masters']}  "
            f"tokens: {', '.join(map(str, row['tokens'])) or 'none'}"
        )


@vault.command("kit", cls=base.KropotCommand)
@click.argument("which", metavar="VAULT")
@book_options
@_kit_option
def kit_(
    settings: Settings,
    *,
    which: str,
    place: BookPlace,
    kit: Path | None,
) -> None:
    """Write a kit of VAULT, given as its id or the beginning of it. It opens everything that the vault has sealed.

    Use this if a kit is lost, or after a new master.
    """
    from kropot.sc2.kit import OwnerKit

    with place.open() as book:
        found = book.vaults.named(which)
        path = kit_writer(book, kit)(OwnerKit(vault=found.vault))
    _told(settings, found, path)


@vault.command("rotate", cls=base.KropotCommand)
@click.argument("which", metavar="VAULT")
@book_options
@_kit_option
def rotate(
    settings: Settings,
    *,
    which: str,
    place: BookPlace,
    kit: Path | None,
) -> None:
    """Give VAULT a new content master, and write the new kit. Use this if a kit may be in the wrong hands.

    The new master seals every version that a list shows for the first time from now on. Older kits do not open these.
    What was sealed before stays as it is: older kits open it, nothing is fetched again, and the new kit opens
    everything.
    """
    from kropot.gateway.revocations import RevocationsError

    with place.open() as book:
        writer = kit_writer(book, kit)
        written: list[Path] = []

        def keep(made: OwnerKit) -> Path:
            written.append(writer(made))
            return written[0]

        try:
            found, path = book.vaults.rotate(which, keep)
        except RevocationsError as error:
            # The vault was rotated, so say where the kit is.
            warn(str(error))
            found, path = book.vaults.named(which), written[0]
    _told(settings, found, path, "older kits do not open what is first sealed for this vault from now on")


def _told(settings: Settings, found: HeldVault, path: Path, more: str = "it opens all of the vault") -> None:
    if settings.json:
        emit_json(
            "vault_kit",
            {"vault": found.vault.id.hex(), "masters": len(found.vault.masters), "kit": str(path.absolute())},
        )
    else:
        emit(found.vault.id.hex())
    say(f"the kit is in {path}: move this file off-line; {more}")


def _row(each: HeldVault, tokens: list[int]) -> dict[str, Any]:
    """Return a vault as the list shows it."""
    from kropot.gateway.tokenspec import shown_time

    return {
        "id": each.vault.id.hex(),
        "made": shown_time(each.created_s),
        "masters": len(each.vault.masters),
        "tokens": tokens,
    }
