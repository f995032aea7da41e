"""The keeper's server: read-only remote access to a replica, for anyone who holds one of its tokens."""
