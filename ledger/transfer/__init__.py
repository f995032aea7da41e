"""Moves a whole ledger: into another database, into a storage as segments, and back."""
