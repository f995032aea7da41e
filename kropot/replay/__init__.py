"""Replay: find any past moment of the replica, and count, digest, list or compare its elements then."""
