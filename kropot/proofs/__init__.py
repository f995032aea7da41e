"""Proofs for third parties: that an event is in a ledger, and that a ledger only grew; made here, checked anywhere."""

from kropot.proofs.check import Proved, check_proof
from kropot.proofs.make import prove_consistency, prove_event

__all__ = ["Proved", "check_proof", "prove_consistency", "prove_event"]
