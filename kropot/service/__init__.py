"""What a service manager and this program say to each other."""
