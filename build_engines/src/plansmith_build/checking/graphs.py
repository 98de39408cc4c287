"""The graphs that engines are asked about: whole in one precision, whatever that costs in accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from plansmith_build.engines.cpu_features import has_vnni
from plansmith_build.precision.calibration import CalibrationMethod, calibrate
from plansmith_build.precision.half import to_bfloat16, to_float16
from plansmith_build.precision.matrix_formats import narrow_weights, to_matrix_format
from plansmith_build.precision.preparation import BFLOAT16_OPSET, HALF_SCALES_OPSET, QUANTIZATION_OPSET, prepare
from plansmith_build.precision.quantization import quantize
from plansmith_build.precision.schemes import TENSORRT, x86_scheme
from plansmith_build.precision.tensorrt_layout import to_tensorrt_layout
from plansmith_build.precision.weight_blocks import block_conversion
from plansmith_build.reading.networks import write_network
from plansmith_build.search.graph_variants import MATRIX_FORMATS, refuse_w4_on_gpus
from plansmith_build.search.targets import Device, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.networks import Network
    from plansmith_build.search.targets import Pairing

__all__ = ["PrecisionGraphs"]


class PrecisionGraphs:
    """Makes the graph for a pairing when it is first asked for.

    Args:
        network: the portable FP32 graph.
        path: its file.
        samples: random inputs, which INT8 ranges are taken from.
        folder: where graphs are written.
    """

    def __init__(self, network: Network, path: Path, samples: Sequence[Arrays], folder: Path) -> None:
        self._network, self._path, self._samples, self._folder = network, path, samples, folder
        self._prepared: dict[int, onnx.ModelProto] = {}
        self._made: dict[tuple[Precision, bool], Path] = {}

    def path_for(self, pairing: Pairing) -> Path:
        """The file for a pairing.

        Raises:
            ConversionFailed: it cannot be made.
            OSError: the disk did not take it.
        """
        refuse_w4_on_gpus(pairing)
        on_cpu = pairing.device is Device.CPU
        as_it_is = pairing.precision is Precision.FP32
        if as_it_is and pairing.target.is_compiled:
            return self._compiled_as_it_is()
        # OpenVINO computes FP32 graphs in BF16 where it is told to.
        if as_it_is or (pairing.precision is Precision.BF16 and on_cpu):
            return self._path
        key = (pairing.precision, on_cpu)
        if key not in self._made:
            path = self._folder / f"model.{pairing.precision}.{pairing.device}.onnx"
            onnx.save(self._make(pairing.precision, on_cpu=on_cpu), path)
            self._made[key] = path
        return self._made[key]

    def _compiled_as_it_is(self) -> Path:
        network = to_tensorrt_layout(self._network)
        if network is self._network:
            return self._path
        return write_network(network, self._folder / "model.tensorrt.onnx")[0]

    def _make(self, precision: Precision, *, on_cpu: bool) -> onnx.ModelProto:
        match precision:
            case Precision.FP16:
                return to_float16(self._prepare(QUANTIZATION_OPSET))
            case Precision.BF16:
                return to_bfloat16(self._prepare(BFLOAT16_OPSET))
            case Precision.W4:
                return block_conversion(self._prepare(QUANTIZATION_OPSET), bits=4).make(frozenset())
        if form := MATRIX_FORMATS.get(precision):
            prepared = self._prepare(form.opset)
            weights, largest = narrow_weights(prepared, form, self._samples)
            return to_float16(to_matrix_format(prepared, form, weights, largest))
        mixed = precision is Precision.INT8_FP16
        scheme = x86_scheme(vnni=has_vnni()) if on_cpu else TENSORRT
        prepared = self._prepare(HALF_SCALES_OPSET if mixed else QUANTIZATION_OPSET)
        ranges = calibrate(prepared, self._samples, CalibrationMethod.MINMAX, scheme)
        quantized = quantize(prepared, ranges, scheme)
        return to_float16(quantized) if mixed else quantized

    def _prepare(self, opset: int) -> onnx.ModelProto:
        if opset not in self._prepared:
            self._prepared[opset] = prepare(self._network, opset=opset)
        return self._prepared[opset]
