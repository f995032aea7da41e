"""Collecting: the decisions (`decide`: pure), and the code that carries them out (`run`, `transfer`)."""
