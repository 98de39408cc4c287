"""NVIDIA's perf_analyzer, the load generator in C++, where it can be had."""
