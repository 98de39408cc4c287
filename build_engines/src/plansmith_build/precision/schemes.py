"""How INT8 is laid out, which differs from device to device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxruntime.quantization import QuantType

if TYPE_CHECKING:
    from typing import Any

__all__ = ["TENSORRT", "QuantizationScheme", "x86_scheme"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizationScheme:
    """A layout of INT8.

    Attributes:
        name: in a few words, for tables and manifests.
        activations: the type of what flows between nodes.
        symmetric: whether the zero point of activations is 0.
        reduce_range: whether weights use 7 of their 8 bits.
        quantize_bias: whether biases become INT32.
        operators: the types of the nodes that are quantized. Weights are symmetric S8, one scale a channel.
        smallest_matrix: a MatMul or Gemm with fewer rows or columns in its weights is not quantized.
        inputs_only: whether only what layers with weights read is quantized, and one branch of each residual sum, so
            that a layer still fuses with the Relu or Add behind it.
    """

    name: str
    activations: QuantType
    symmetric: bool
    reduce_range: bool
    quantize_bias: bool
    operators: tuple[str, ...]
    smallest_matrix: int
    inputs_only: bool = False

    @property
    def calibrated(self) -> list[str]:
        """The types of the nodes whose inputs and outputs need ranges."""
        return [*self.operators, "Add"] if self.inputs_only else list(self.operators)

    @property
    def extra_options(self) -> dict[str, Any]:
        """For onnxruntime.quantization."""
        return {
            "ActivationSymmetric": self.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": self.quantize_bias,
            "MatMulConstBOnly": True,
            # Quantized where the next node wants it; the logits of a classifier are not.
            "OpTypesToExcludeOutputQuantization": list(self.operators) if self.inputs_only else ["Gemm", "MatMul"],
        }


TENSORRT = QuantizationScheme(
    name="S8 activations, S8 weights",
    activations=QuantType.QInt8,
    symmetric=True,
    reduce_range=False,
    quantize_bias=False,
    operators=_WEIGHTED,
    smallest_matrix=16,
    inputs_only=True,
)
"""Zero points of 0, weights per channel, biases in floating point, no narrow matrices, nothing between a layer and the
Relu or Add that it fuses with:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"""


def x86_scheme(*, vnni: bool) -> QuantizationScheme:
    """U8 activations and S8 weights, which is what x86 multiplies.

    Args:
        vnni: whether the CPU has VNNI. Without, the sum of two products saturates at 16 bits, which 7-bit weights avoid
            (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    """
    return QuantizationScheme(
        name="U8 activations, S8 weights" if vnni else "U8 activations, 7-bit S8 weights",
        activations=QuantType.QUInt8,
        symmetric=False,
        reduce_range=not vnni,
        quantize_bias=True,
        operators=(
            *_WEIGHTED,
            *("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"),
            *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize", "Pad", "Split", "Slice"),
        ),
        smallest_matrix=1,
    )
