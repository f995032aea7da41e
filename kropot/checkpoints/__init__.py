"""Signed checkpoints outside the database: key files, checkpoint folders, and signing."""
