"""Communication between a service manager and this program."""
