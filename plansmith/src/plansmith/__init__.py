"""The distribution of one name: it owns the command `plansmith`, and brings the parts that the command joins."""

import os

# ONNX Runtime from PyPI reports which models run where to its maker, unless it finds this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
