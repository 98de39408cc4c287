"""What a model can be built for, and what each target needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import onnxruntime

from plansmith_build.engines import tensorrt, tensorrt_rtx
from plansmith_build.engines.cpu_features import has_fast_bfloat16
from plansmith_build.engines.openvino import obstacle_to_openvino

if TYPE_CHECKING:
    from collections.abc import Collection

    from plansmith_build.reading.signatures import Signature

__all__ = ["Device", "Pairing", "Precision", "Target", "has_cuda", "obstacle_to", "pairings"]

CUDA_PROVIDER = "CUDAExecutionProvider"


class Target(StrEnum):
    """The server's backend that runs a candidate."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def is_compiled(self) -> bool:
        """Whether it is one of NVIDIA's two compilers, which take the same graphs."""
        return self in {Target.TENSORRT, Target.TENSORRT_RTX}


class Precision(StrEnum):
    """The precision that a candidate computes in, where its graph allows.

    `int8-fp16` is INT8 with the rest in FP16, and so are the next three for MatMul and Gemm alone: weights of 8 or 4
    bits, and FP8 on both sides. `w4` is weights of 4 bits on a CPU.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_FP16 = "int8-fp16"
    W8A16 = "w8a16"
    W4A16 = "w4a16"
    FP8 = "fp8"
    W4 = "w4"


class Device(StrEnum):
    """Where a candidate runs; the name of the configuration that the fastest becomes."""

    CPU = "cpu"
    GPU = "gpu"
    RTX = "rtx"


@dataclass(frozen=True)
class Pairing:
    """A target, a device and a precision."""

    target: Target
    device: Device
    precision: Precision

    def __str__(self) -> str:
        return self.with_format("")

    def with_format(self, stored: str) -> str:
        """In words; `stored` is what a file that is served as it is has instead of FP32, empty for FP32."""
        precision = stored.lower() if stored and self.precision is Precision.FP32 else self.precision
        return f"{self.target} {precision} ({self.device.upper()})"


def obstacle_to(pairing: Pairing, signature: Signature) -> str:
    """Why a pairing cannot be built and measured here, in one line, or an empty string."""
    match pairing.target, pairing.device:
        case Target.TENSORRT, _:
            return tensorrt.unavailable_because()
        case Target.TENSORRT_RTX, _:
            return tensorrt_rtx.unavailable_because()
        case Target.OPENVINO, _:
            return obstacle_to_openvino(signature) or _obstacle_to_openvino_precision(pairing.precision)
        case _, Device.GPU:
            if not has_cuda():
                return "this ONNX Runtime has no CUDA provider, onnxruntime-gpu has"
        case _:
            return _NOT_IN_ONNX_RUNTIME_ON_A_CPU.get(pairing.precision, "")
    return ""


def has_cuda() -> bool:
    """Whether this ONNX Runtime was built for NVIDIA's GPUs."""
    return CUDA_PROVIDER in onnxruntime.get_available_providers()


def pairings(
    targets: Collection[Target], precisions: Collection[Precision], *, stored: str = ""
) -> tuple[Pairing, ...]:
    """Everything that may be tried.

    Args:
        targets: as asked for; empty for all that can be measured on a machine that has the device.
        precisions: as asked for; empty for those that a device may gain by.
        stored: what the file has instead of FP32, such as "FP16"; that precision is then the file as it is.
    """
    chosen = []
    for target in targets or _MEASURABLE:
        for device in _DEVICES[target]:
            worthwhile = _WORTHWHILE[target, device]
            for precision in precisions or worthwhile:
                as_it_is = precision == stored.lower()
                chosen.append(Pairing(target, device, Precision.FP32 if as_it_is else precision))
    return tuple(dict.fromkeys(chosen))


_DEVICES = {
    Target.ONNXRUNTIME: (Device.CPU, Device.GPU),
    Target.OPENVINO: (Device.CPU,),
    Target.TENSORRT: (Device.GPU,),
    Target.TENSORRT_RTX: (Device.RTX,),
}

MATRIX_PRECISIONS = (Precision.W8A16, Precision.W4A16, Precision.FP8)
"""Those of weights that a GPU multiplies; tried where they are asked for, since they gain by large matrices only."""

_IN_FLOATING_POINT = "a CPU computes it in FP32, so int8 is what it can gain by"
_NOT_IN_ONNX_RUNTIME_ON_A_CPU = {
    Precision.BF16: "ONNX Runtime's CPU provider does not compute in BF16",
    **dict.fromkeys((Precision.INT8_FP16, *MATRIX_PRECISIONS), _IN_FLOATING_POINT),
}

# Engines for RTX GPUs are made where there is none, and on request only.
_MEASURABLE = (Target.ONNXRUNTIME, Target.OPENVINO, Target.TENSORRT)

_OF_WHOLE_GRAPHS = tuple(precision for precision in Precision if precision not in {*MATRIX_PRECISIONS, Precision.W4})
_WORTHWHILE = {
    # A CPU computes FP16 in FP32, with casts on top.
    (Target.ONNXRUNTIME, Device.CPU): (Precision.FP32, Precision.INT8),
    (Target.ONNXRUNTIME, Device.GPU): (Precision.FP32, Precision.FP16),
    (Target.OPENVINO, Device.CPU): (Precision.FP32, Precision.BF16, Precision.INT8),
    (Target.TENSORRT, Device.GPU): _OF_WHOLE_GRAPHS,
    (Target.TENSORRT_RTX, Device.RTX): _OF_WHOLE_GRAPHS,
}


def _obstacle_to_openvino_precision(precision: Precision) -> str:
    if precision is Precision.BF16 and not has_fast_bfloat16():
        return "this CPU does not multiply BF16"
    if precision is Precision.FP16:
        return "OpenVINO's CPU plugin computes FP16 graphs in FP32"
    if precision in {Precision.INT8_FP16, *MATRIX_PRECISIONS}:
        return _IN_FLOATING_POINT
    return ""
