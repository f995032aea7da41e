"""`sc2`, the authenticated sealing: it proves what an owner gets back (docs/format.md, "Sealed objects")."""
