"""The search for the configuration with the highest throughput inside a service level objective."""
