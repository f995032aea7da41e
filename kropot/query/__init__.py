"""Answers questions about a replica with plain values. `render` turns them into JSON."""
