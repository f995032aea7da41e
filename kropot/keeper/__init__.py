"""The keeper's server: a replica to read from afar, for whoever holds a token of it. It writes nothing."""
