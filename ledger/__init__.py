"""An append-only ledger of what was seen and done: events, their proofs and their projection."""
