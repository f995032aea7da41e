"""What every server of this program shares: bounds on clients, listening, who asks, and the shape of failures."""
