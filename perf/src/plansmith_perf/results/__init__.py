"""Result documents: what they hold, the environment of a measurement, and the differences between two."""
