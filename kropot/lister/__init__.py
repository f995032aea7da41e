"""Drains a server's list despite every fault that it can have; no I/O. `collect` and `verify --source` use it."""
