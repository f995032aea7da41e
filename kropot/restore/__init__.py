"""Restore: open sealed copies and write them as files under their names."""
