"""Sub-commands that this distribution brings to the plansmith command."""
