"""What this machine has of all that plansmith can use."""
