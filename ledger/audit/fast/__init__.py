"""The fast path of the audit: recognises sound events and rows by their bytes, many at once."""
