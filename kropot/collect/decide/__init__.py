"""What a collector decides: pure functions and state machines from what happened to what is to be done."""
