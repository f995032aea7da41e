"""The gateway's own database: the catalogue of the folder, the tokens (sealed), and which ids were given out.

The only package of kropot that knows SQL.
"""

from kropot.gateway.state.opening import open_state, sqlite_file
from kropot.gateway.state.rows import (
    PER_SECOND,
    FileRow,
    NewFile,
    ServedSourceRow,
    StateError,
    TokenExistsError,
    TokenRow,
    next_second,
)
from kropot.gateway.state.store import State

__all__ = [
    "PER_SECOND",
    "FileRow",
    "NewFile",
    "ServedSourceRow",
    "State",
    "StateError",
    "TokenExistsError",
    "TokenRow",
    "next_second",
    "open_state",
    "sqlite_file",
]
