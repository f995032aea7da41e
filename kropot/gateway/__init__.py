"""The gateway: a SecureCopy server that serves a folder and seals each file for the holder of a token."""
