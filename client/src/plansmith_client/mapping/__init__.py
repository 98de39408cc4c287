"""Scoring many rows: batches, requests in flight, joined results, progress."""
