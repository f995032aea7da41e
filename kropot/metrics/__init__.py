"""Metrics of a replica, a collector and a gateway for a monitor, in Prometheus' text format."""
