"""Load generation in processes of its own, and what is measured while it runs."""
