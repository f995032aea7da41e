"""The gateway: a SecureCopy server that seals a folder, file by file, for whoever holds a token."""
