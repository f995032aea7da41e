"""Signed checkpoints outside the database: the key's file, the folders they are written to, and signing itself."""

from kropot.checkpoints.folder import CheckpointFolder, KeptCheckpoint
from kropot.checkpoints.keys import read_signing_key, read_verifier_key, write_signing_key
from kropot.checkpoints.signing import Signed, sign_head

__all__ = [
    "CheckpointFolder",
    "KeptCheckpoint",
    "Signed",
    "read_signing_key",
    "read_verifier_key",
    "sign_head",
    "write_signing_key",
]
