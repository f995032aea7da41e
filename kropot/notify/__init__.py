"""Notify people and services about runs and alarms: pings, messages through Apprise, and the keeper's own command."""
