"""Retention: which copies a policy lets go, and how their bytes are freed (docs/decisions/0030, 0031)."""
