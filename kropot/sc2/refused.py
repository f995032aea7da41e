"""The error that refuses sealed data: a sentence, and a stable word for the reason."""

from __future__ import annotations

from enum import StrEnum

from kropot.errors import Exit, KropotError


class Reason(StrEnum):
    """Why sealed data is refused. The words are stable because messages, findings and tests use them."""

    HEADER = "header"
    """This version cannot read the header."""
    VAULT = "vault"
    """No given kit opens this vault."""
    KEY = "key"
    """The kit opens the vault but does not have this key, because it is older than the sealed data."""
    COMMITMENT = "commitment"
    """The header was altered, or it belongs to another key."""
    FORM = "form"
    """The sealed form was altered, belongs elsewhere, or has invalid fields."""
    NAME = "name"
    """The id in the header does not belong to the path in the form."""
    CONTENT = "content"
    """A chunk was altered, or it belongs elsewhere."""
    CUT = "cut"
    """The data is cut short."""
    EXCESS = "excess"
    """Something follows the end."""


class RefusedError(KropotError):
    """Sealed data that is not what the owner sealed. No unauthenticated data was returned before."""

    exit_code = Exit.FINDINGS

    def __init__(self, reason: Reason, sentence: str) -> None:
        """Remember the reason."""
        super().__init__(sentence)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Reason, str]]:
        """Pickle as the same error, so that it can come from another process."""
        return type(self), (self.reason, str(self))


class NoKeyError(RefusedError):
    """The available kits do not hold the key. The data can still be sound."""

    exit_code = Exit.WRONG_KEY
