"""A replica that somebody else keeps, seen from its owner's machine. No key leaves this machine."""
