"""Verification: whether ledger, index, copies, checkpoints and source are what they were; and repair."""

from kropot.verify.checkpoints import Note
from kropot.verify.contents import World
from kropot.verify.findings import Finding, Summary
from kropot.verify.run import Verification
from kropot.verify.scope import Scope

__all__ = ["Finding", "Note", "Scope", "Summary", "Verification", "World"]
