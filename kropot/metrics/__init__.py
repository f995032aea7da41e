"""What a monitor reads, in Prometheus' text format: of a replica, a collector and a gateway."""
