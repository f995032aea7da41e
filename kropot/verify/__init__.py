"""Verification: check the ledger, the projection, checkpoints, segments, copies and the source; and repair."""

from kropot.verify.checkpoints import Note
from kropot.verify.findings import Summary
from kropot.verify.run import RefetchDone, Verification
from kropot.verify.scope import Scope
from kropot.verify.world import World
from ledger.audit import Finding

__all__ = ["Finding", "Note", "RefetchDone", "Scope", "Summary", "Verification", "World"]
