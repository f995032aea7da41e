"""Proofs for third parties: an event belongs to a ledger, or a ledger only grew. Anyone can check them."""

from kropot.proofs.check import Proved, check_proof
from kropot.proofs.make import prove_consistency, prove_event

__all__ = ["Proved", "check_proof", "prove_consistency", "prove_event"]
