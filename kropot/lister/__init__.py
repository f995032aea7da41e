"""Drains a server's list, with every fault that a list can have; no I/O. Used by `collect` and by `verify --source`."""
