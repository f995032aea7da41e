"""Answers questions about a replica with plain values, and renders them as JSON in one place (`render`)."""
