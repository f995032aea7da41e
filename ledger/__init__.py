"""An append-only ledger of what was seen and what was done: events, their proof, and what they mean."""
