"""The caller's objects to tensors, and the checks before a byte is sent."""
