"""Taking a whole ledger elsewhere: into another database, into a storage as segments, and back."""
