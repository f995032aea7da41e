"""The object store: immutable files named by the SHA-256 of their bytes, durable before anything names them."""
