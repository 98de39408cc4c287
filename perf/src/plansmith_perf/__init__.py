"""Load tests for models served by Triton Inference Server."""

import os

# ONNX Runtime from PyPI reports which models run where to its maker, unless it finds this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
