"""Calls to whoever should hear how it goes: pings, messages through Apprise, and a command of the keeper's."""
