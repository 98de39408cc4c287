"""Servers of others that could serve the same model: FastAPI, LitServe, MLServer, BentoML and PyTriton.

Each is a small program written as its own documentation recommends, in an environment of its own. They are not part of
the distribution: `perf/benchmarks/peers_table.py` measures them for the published tables.
"""
