"""Moving contents from a server into the object store: one small protocol, two engines, the same checks in both."""
