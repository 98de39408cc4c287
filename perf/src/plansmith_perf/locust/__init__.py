"""Load tests with Locust.

Importing `users`, `plugin` or what they import brings locust, which patches the process: only a locustfile does that.
"""
