"""The portable version: repaired, batched where it can be, optimised, and verified against the file as it came."""
