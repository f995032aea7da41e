"""KropotCLI: pulls a file repository that it cannot read, and records in a ledger what happened (docs/tour.md)."""
