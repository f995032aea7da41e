"""Collecting: what is decided (plan, lister, step: pure) and what carries it out (loop, workers, transfer)."""
