"""What can go wrong with a ledger, each error with the data its caller acts on."""

from __future__ import annotations


class LedgerError(Exception):
    """Anything the ledger refuses or cannot do."""


class LedgerMissingError(LedgerError):
    """There is no ledger at this place; `place` is an absolute path or a URL without its password."""

    def __init__(self, place: str) -> None:
        """Remember where the ledger was looked for."""
        super().__init__(f"no ledger at {place}")
        self.place = place


class BadPlaceError(LedgerError):
    """An address that names no database on which a ledger can be kept; it never shows a password."""


class ForeignDatabaseError(LedgerError):
    """The database holds tables that no ledger made; nothing was written."""

    def __init__(self, place: str, tables: tuple[str, ...]) -> None:
        """Remember the place and the foreign tables, in alphabetical order."""
        super().__init__(f"{place} holds tables of another program: {', '.join(tables)}")
        self.place = place
        self.tables = tables


class NewerLedgerError(LedgerError):
    """A newer version of the program made this ledger; `needs` names the schema revision it has.

    `program` is the version that brought it there ("kropotcli 1.2.0"), where the ledger tells.
    """

    def __init__(self, place: str, needs: str, program: str | None = None) -> None:
        """Remember the place, and the schema revision and version found there."""
        super().__init__(f"the ledger at {place} was made by {program or 'a newer version'} (schema {needs})")
        self.place = place
        self.needs = needs
        self.program = program


class ConflictError(LedgerError):
    """Another writer was faster: `keys` are the streams whose version is no longer the expected one.

    Nothing of the batch was written.
    """

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        """Remember the keys of the streams that moved."""
        super().__init__(f"{len(keys)} streams have moved on")
        self.keys = keys


class MalformedEventError(LedgerError):
    """Bytes that are not an event of this format; `position` is None where it is not known."""

    def __init__(self, why: str, *, position: int | None = None) -> None:
        """Say why, and at which position if it is known."""
        where = "" if position is None else f"event {position}: "
        super().__init__(f"{where}{why}")
        self.why = why
        self.position = position


class UnknownCriticalEventError(LedgerError):
    """An event that a projection MUST NOT skip, of a type that this version does not know."""

    def __init__(self, position: int, type_name: str, schema_version: int) -> None:
        """Remember where it stands and what it is."""
        super().__init__(
            f"event {position} is a critical {type_name} (schema {schema_version}) that this version does not know"
        )
        self.position = position
        self.type_name = type_name
        self.schema_version = schema_version


class BrokenChainError(LedgerError):
    """A stored record that contradicts its neighbours; `position` is the first bad one."""

    def __init__(self, position: int, why: str) -> None:
        """Remember the first bad position and what is wrong there."""
        super().__init__(f"event {position}: {why}")
        self.position = position
        self.why = why


class ReadOnlyLedgerError(LedgerError):
    """The database does not let this user write."""


class LedgerUnavailableError(LedgerError):
    """The database is away or busy beyond patience; the same call may succeed later."""


class ClockAheadError(LedgerError):
    """A recorded time was claimed that lies too far ahead of the ledger's clock."""

    def __init__(self, claimed_us: int, now_us: int) -> None:
        """Remember both times, in microseconds since 1970."""
        super().__init__(f"a time {(claimed_us - now_us) // 1_000_000} s ahead of the ledger's clock was refused")
        self.claimed_us = claimed_us
        self.now_us = now_us


class InstanceBusyError(LedgerError):
    """Another living session has this instance name; `place` says where it works, empty where that is not known."""

    def __init__(self, name: str, place: str) -> None:
        """Remember the name, and where its holder works."""
        super().__init__(f"an instance named {name!r} is at work{f' at {place}' if place else ''}")
        self.name = name
        self.place = place


class BadCheckpointError(LedgerError):
    """A checkpoint, a signed note or a key that cannot be believed; `kind` is "malformed", "key" or "signature"."""

    def __init__(self, why: str, *, kind: str = "malformed") -> None:
        """Say why, and which of the three kinds it is."""
        super().__init__(why)
        self.why = why
        self.kind = kind


class MalformedSegmentError(LedgerError):
    """Bytes that are not a segment of a ledger; `position` is the first bad event where it is known."""

    def __init__(self, why: str, *, position: int | None = None) -> None:
        """Say why, and at which position if it is known."""
        where = "" if position is None else f"event {position}: "
        super().__init__(f"{where}{why}")
        self.why = why
        self.position = position
