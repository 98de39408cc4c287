"""The sub-commands that plansmith-server adds to `plansmith`."""
