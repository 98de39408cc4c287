"""NVIDIA's perf_analyzer, the load generator in C++, where it can be had."""

from plansmith_perf.perf_analyzer.installation import install_perf_analyzer
from plansmith_perf.perf_analyzer.program import PerfAnalyzer, Question

__all__ = ["PerfAnalyzer", "Question", "install_perf_analyzer"]
