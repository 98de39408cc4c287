"""Pipelines: what comes before and after a model, served with it as one ensemble."""
