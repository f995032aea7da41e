"""Find the newest version of each element in a storage, from its objects alone, without a ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kropot.errors import WrongKeyError
from kropot.objects.store import ObjectMissingError
from kropot.replay.copies import HeldCopy
from kropot.restore.spool import Spool
from kropot.sc2.layout import HEADER_BYTES, parse_header
from kropot.sc2.opening import open_head
from kropot.sc2.refused import NoKeyError, Reason, RefusedError
from kropot.sc2.seal import read_exactly, seal_list_form
from kropot.securecopy.wire import canonical_json
from ledger.events import StreamKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kropot.objects.store import ObjectStore
    from kropot.sc2.vault import Vault

_MOST_VAULTS = 3
"""How many vaults a message names."""

_SECOND_US = 1_000_000


@dataclass(slots=True)
class Surveyed:
    """What a storage holds: `foreign` objects are not of sc2, `locked` ones need another kit, `refused` were altered.

    `older` counts versions that are not the newest of their element. `vaults` are those of the locked objects.
    """

    opened: int = 0
    older: int = 0
    foreign: int = 0
    locked: int = 0
    refused: int = 0
    vaults: set[str] = field(default_factory=set)


class _Found(NamedTuple):
    source: bytes
    element: str
    sealed_us: int
    sha256: bytes
    size: int
    form: str


def newest_versions(objects: ObjectStore, vaults: Mapping[bytes, Vault], survey: Surveyed) -> Iterator[HeldCopy]:
    """Yield the version of each element that was sealed last. Memory stays flat: the results are sorted on disk.

    Raises: WrongKeyError if there are objects of sc2, but the kits open none of them.
    """
    with Spool[_Found]() as spool:
        for sha256, size in objects.walk():
            found = _survey(objects, sha256, size, vaults, survey)
            if found is not None:
                spool.add(_order(found), found)
        if survey.locked and not survey.opened:
            known = " and ".join(sorted(survey.vaults))
            raise WrongKeyError(
                f"no given kit opens an object in the storage, and nothing was written: give the kit of the vault "
                f"{known} with --key"
            )
        last: _Found | None = None
        for found in spool.in_order():
            if last is not None and (last.source, last.element) != (found.source, found.element):
                yield _held(last)
            elif last is not None:
                survey.older += 1
            last = found
        if last is not None:
            yield _held(last)


def _survey(
    objects: ObjectStore, sha256: bytes, size: int, vaults: Mapping[bytes, Vault], survey: Surveyed
) -> _Found | None:
    """Open the head of an object, and count it."""
    try:
        with objects.open(sha256) as source:
            opened = open_head(source, vaults)
    except ObjectMissingError:
        return None
    except NoKeyError:
        survey.locked += 1
        if len(survey.vaults) < _MOST_VAULTS:
            survey.vaults.add(_vault_of(objects, sha256))
        return None
    except RefusedError as error:
        if error.reason in {Reason.HEADER, Reason.CUT}:
            survey.foreign += 1
        else:
            survey.refused += 1
        return None
    survey.opened += 1
    header, form = opened.header, opened.form
    vault = vaults[header.vault]
    text = seal_list_form(vault, form, source=header.source, version=header.version, key_id=header.key_id)
    return _Found(header.source, header.element_id, form.sealed_us, sha256, size, text)


def _vault_of(objects: ObjectStore, sha256: bytes) -> str:
    with objects.open(sha256) as source:
        return parse_header(read_exactly(source, HEADER_BYTES)).vault.hex()


def _order(found: _Found) -> bytes:
    """Return a sort key that puts an element's versions together, the one that was sealed last at the end."""
    return found.source + found.element.encode() + found.sealed_us.to_bytes(8, "big") + found.sha256


def _held(found: _Found) -> HeldCopy:
    return HeldCopy(
        key=StreamKey(source=found.source, kind="file", id=found.element),
        form=canonical_json({"encrypted": found.form}),
        date=found.sealed_us // _SECOND_US,
        tz="UTC",
        state="current",
        sha256=found.sha256,
        size=found.size,
        iv=None,
        is_older=False,
    )
