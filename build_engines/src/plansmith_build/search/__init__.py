"""The search for the fastest version that is accurate enough: targets, candidates, graphs, timing and selection."""
