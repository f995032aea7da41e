"""The time machine: any past moment of the replica, named, counted, digested, listed, compared and exported."""
