"""The gateway's own database: the catalogue of the folder, the sealed tokens, and the ids that clients received.

This is the only package of kropot that uses SQL.
"""

from kropot.gateway.state.files import FOR_OTHERS, FOR_SEALED
from kropot.gateway.state.opening import open_state, sqlite_file
from kropot.gateway.state.rows import (
    PER_SECOND,
    FileRow,
    NewFile,
    ServedSourceRow,
    StateError,
    Telling,
    TokenExistsError,
    TokenRow,
    VaultRow,
    next_second,
)
from kropot.gateway.state.store import State

__all__ = [
    "FOR_OTHERS",
    "FOR_SEALED",
    "PER_SECOND",
    "FileRow",
    "NewFile",
    "ServedSourceRow",
    "State",
    "StateError",
    "Telling",
    "TokenExistsError",
    "TokenRow",
    "VaultRow",
    "next_second",
    "open_state",
    "sqlite_file",
]
