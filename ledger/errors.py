"""The errors of a ledger, each with the data that its caller acts on."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger refuses something or cannot do it."""


class LedgerMissingError(LedgerError):
    """There is no ledger at `place`, an absolute path or a URL without its password."""

    def __init__(self, place: str) -> None:
        """Keep the place."""
        super().__init__(f"there is no ledger at {place}")
        self.place = place


class BadPlaceError(LedgerError):
    """The address does not name a database that can hold a ledger. The message never shows a password."""


class ForeignDatabaseError(LedgerError):
    """The database holds tables of another program. Nothing was written."""

    def __init__(self, place: str, tables: tuple[str, ...]) -> None:
        """Keep the place and the foreign tables, in alphabetical order."""
        super().__init__(f"{place} holds tables of another program: {', '.join(tables)}")
        self.place = place
        self.tables = tables


class NewerLedgerError(LedgerError):
    """A newer version of the program made this ledger. `needs` is the ledger's schema revision.

    `program` is that version ("kropotcli 1.2.0"), or None if the ledger does not say.
    """

    def __init__(self, place: str, needs: str, program: str | None = None) -> None:
        """Keep the place, and the schema revision and version found there."""
        super().__init__(f"the ledger at {place} was made by {program or 'a newer version'} (schema {needs})")
        self.place = place
        self.needs = needs
        self.program = program


class ConflictError(LedgerError):
    """Another writer was faster. `keys` are the streams that no longer have the expected version.

    No part of the batch was written.
    """

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        """Keep the keys of the streams that changed."""
        super().__init__(f"another writer has changed {len(keys)} streams meanwhile")
        self.keys = keys


class MalformedEventError(LedgerError):
    """The bytes are not an event of this format. `position` is None if it is not known."""

    def __init__(self, why: str, *, position: int | None = None) -> None:
        """Keep the reason, and the position if it is known."""
        where = "" if position is None else f"event {position}: "
        super().__init__(f"{where}{why}")
        self.why = why
        self.position = position


class UnknownCriticalEventError(LedgerError):
    """A projection MUST NOT skip this event, but this version does not know its type."""

    def __init__(self, position: int, type_name: str, schema_version: int) -> None:
        """Keep the event's position and type."""
        super().__init__(
            f"event {position} is a critical {type_name} (schema {schema_version}), which this version does not know"
        )
        self.position = position
        self.type_name = type_name
        self.schema_version = schema_version


class BrokenChainError(LedgerError):
    """A stored event contradicts its neighbours. `position` is the first bad one."""

    def __init__(self, position: int, why: str) -> None:
        """Keep the first bad position and what is wrong there."""
        super().__init__(f"event {position}: {why}")
        self.position = position
        self.why = why


class DamagedRowError(LedgerError):
    """A row outside the events, in the head or the projection, cannot be what the program wrote."""


class ReadOnlyLedgerError(LedgerError):
    """The database does not let this user write."""


class LedgerUnavailableError(LedgerError):
    """The database cannot be reached, or is busy for too long. The same call may succeed later."""


class ClockAheadError(LedgerError):
    """A fact claims a time that is too far ahead of the ledger's clock."""

    def __init__(self, claimed_us: int, now_us: int) -> None:
        """Keep both times, in microseconds since 1970."""
        ahead_s = (claimed_us - now_us) // 1_000_000
        super().__init__(f"a fact's time is {ahead_s} s ahead of the ledger's clock: check this machine's clock")
        self.claimed_us = claimed_us
        self.now_us = now_us


class ClockLeapError(LedgerError):
    """The clock says that years have passed since the ledger's last event, which can be wrong. Nothing was written."""

    def __init__(self, clock_us: int, last_us: int) -> None:
        """Keep both times, in microseconds since 1970."""
        years = (clock_us - last_us) / (365.25 * 86_400_000_000)
        super().__init__(f"the clock is {years:.1f} years after the ledger's last event")
        self.clock_us = clock_us
        self.last_us = last_us


class InstanceBusyError(LedgerError):
    """Another active session has this instance name. `place` is where it works, or empty if that is not known."""

    def __init__(self, name: str, place: str) -> None:
        """Keep the name, and the place where its holder works."""
        super().__init__(f"another instance named {name!r} is running{f' at {place}' if place else ''}")
        self.name = name
        self.place = place


class BadCheckpointError(LedgerError):
    """A checkpoint, a signed note or a key is not valid. `kind` is "malformed", "key" or "signature"."""

    def __init__(self, why: str, *, kind: str = "malformed") -> None:
        """Keep the reason and the kind."""
        super().__init__(why)
        self.why = why
        self.kind = kind


class MalformedSegmentError(LedgerError):
    """The bytes are not a segment of a ledger. `position` is the first bad event, or None if it is not known."""

    def __init__(self, why: str, *, position: int | None = None) -> None:
        """Keep the reason, and the position if it is known."""
        where = "" if position is None else f"event {position}: "
        super().__init__(f"{where}{why}")
        self.why = why
        self.position = position
