"""`plansmith init`: the files that a project around one model begins with."""
