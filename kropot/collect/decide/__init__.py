"""What a collector decides: pure functions and state machines that turn what happened into what to do."""
