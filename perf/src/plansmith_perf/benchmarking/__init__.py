"""A benchmark, from its options to its result document, whichever generator sends the load."""
