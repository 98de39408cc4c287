"""NVIDIA's quantizer, run by a Python that has it: `pip install 'nvidia-modelopt[onnx]'`.

`python modelopt_quantizer.py MODEL.onnx DATA.npz MODE OUTPUT.onnx`: MODE is int8, int4 or fp8; the rest becomes FP16.
Started by compiled_engines.py.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import numpy as np
from modelopt.onnx.quantization import quantize

model, data, mode, output = sys.argv[1:]
with np.load(data) as arrays:
    quantize(
        model,
        quantize_mode=mode,
        calibration_data=dict(arrays),
        calibration_eps=["cpu"],
        high_precision_dtype="fp16",
        output_path=output,
        log_level="ERROR",
    )
print(version("nvidia-modelopt"))  # noqa: T201
