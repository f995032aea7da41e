"""KropotCLI: pulls a file repository that it cannot read, and remembers in a ledger what happened (docs/tour.md)."""
