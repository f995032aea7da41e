"""The command line: one file for each command, and the code that they share."""
