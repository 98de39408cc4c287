"""The commands that this distribution brings to `plansmith`."""
