"""Carries out what a collector decides: threads, the ledger, the server and the storage."""
