"""`sc2`, the authenticated sealing: what an owner gets back is proved (docs/format.md, "Sealed objects")."""
