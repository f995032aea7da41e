"""Which vault a source's list names, and which further tokens of this vault continue the source.

Each source has a stream of its own for this. It is empty for sources that are not sealed by `sc2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.append import NewFact
from ledger.decoding import newest_fact
from ledger.events import StreamKey, Subject, VaultNamed

if TYPE_CHECKING:
    from ledger.stores import EventLog, LedgerStore


MAX_TOKENS: Final = 64
"""The most further tokens to keep, because each event about the vault lists them all. Older ones are dropped."""


class Naming(NamedTuple):
    """The id of a source's vault (16 bytes, or None if none was named), its further tokens, and the stream's version.

    The version is 0 if nothing was named.
    """

    vault: bytes | None = None
    token_macs: tuple[bytes, ...] = ()
    version: int = 0

    def fact(self, source: bytes, vault: bytes, *token_macs: bytes, observed_us: int) -> NewFact:
        """Return the fact that the list of `source` names this vault, and that these further tokens continue it."""
        named = VaultNamed(vault=vault, token_macs=(*self.token_macs, *token_macs)[-MAX_TOKENS:])
        return NewFact(key=vault_key(source), fact=named, observed_us=observed_us, expected=self.version)


NOTHING_NAMED: Final = Naming()


def vault_key(source: bytes) -> StreamKey:
    """Return the key of the stream that says which vault the source's list names."""
    return StreamKey(source=source, kind=Subject.VAULT.value, id="")


def naming_of(log: EventLog, source: bytes, *, until: int | None = None) -> Naming:
    """Return which vault the source's list names, up to the position `until` if that is given."""
    fact, _, version = newest_fact(log, vault_key(source), VaultNamed, until=until)
    return Naming(version=version) if fact is None else Naming(fact.vault, fact.token_macs, version)


def namings_of(store: LedgerStore) -> dict[bytes, Naming]:
    """Return the naming of every source, by source id."""
    return {row.id: naming_of(store.log, row.id) for row in store.projection.sources()}
