"""What all servers of this program share: bounds on clients, listening, the client's address, the shape of failures."""
