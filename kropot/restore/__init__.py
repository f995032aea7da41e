"""The way back: open what the source's server sealed, and give the files their names again."""
