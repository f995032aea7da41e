"""Signed checkpoints outside the database: the key's file, the folders they are written to, and signing itself."""
