"""The distribution of one name: it owns the command `plansmith`, and brings the parts that the command joins."""
