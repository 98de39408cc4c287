"""Settings from config.pbtxt, under the names of Triton's native OpenVINO backend.

Source: github.com/triton-inference-server/openvino_backend, README.md ("Parameters") and
`ModelState::ParseParameters` in src/openvino.cc. As there, unknown parameters are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_server.backends.config import parse_whole_number
from plansmith_server.backends.threads import threads_per_instance
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_server.backends.config import ModelConfig

__all__ = ["OpenVinoSettings"]

HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
STREAMS = ("AUTO", "NUMA")
PRECISIONS = ("f32", "f16", "bf16")


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    """How a model is compiled.

    Attributes:
        properties: OpenVINO's own properties of the CPU device, by name.
        extension: a shared library with custom layers, or "".
        fixed_batch: whether the model is compiled for batches of exactly max_batch_size.
        pad_batch: whether a smaller batch is filled up to that, instead of refused.
        reshape: whether the inputs take the configured dims in place of the model's.
    """

    properties: Mapping[str, str | int]
    extension: str
    fixed_batch: bool
    pad_batch: bool
    reshape: bool

    @classmethod
    def from_config(cls, config: ModelConfig) -> OpenVinoSettings:
        """Read them from the configuration of a model.

        Raises:
            ModelError: a value is not one that the parameter can have.
        """
        parameters = config.parameters
        instances = config.instance_count
        properties: dict[str, str | int] = {
            "INFERENCE_NUM_THREADS": _threads(parameters, instances),
            # Instances are separate processes: pinned, the threads of all of them would share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        compilation = _number(parameters, "COMPILATION_NUM_THREADS")
        if compilation:
            properties["COMPILATION_NUM_THREADS"] = compilation
        streams = parameters.get("NUM_STREAMS", "").upper()
        if streams in STREAMS:
            properties["NUM_STREAMS"] = streams
        elif streams:
            # There, instances share one compiled model and its streams; here, each is a separate process.
            properties["NUM_STREAMS"] = max(1, parse_whole_number("NUM_STREAMS", streams) // instances)
        if "PERFORMANCE_HINT" in parameters:
            properties["PERFORMANCE_HINT"] = _choice(parameters, "PERFORMANCE_HINT", HINTS)
        if "HINT_BF16" in parameters:
            _choice(parameters, "HINT_BF16", ("YES",))
            properties["INFERENCE_PRECISION_HINT"] = "bf16"
        if "INFERENCE_PRECISION_HINT" in parameters:
            # Not one of the native backend's. A CPU with AMX computes FP32 models in bfloat16 unless told otherwise.
            properties["INFERENCE_PRECISION_HINT"] = _choice(parameters, "INFERENCE_PRECISION_HINT", PRECISIONS)
        return cls(
            properties=properties,
            extension=parameters.get("CPU_EXTENSION_PATH", ""),
            fixed_batch=_yes(parameters, "SKIP_OV_DYNAMIC_BATCHSIZE") and config.max_batch_size > 0,
            pad_batch=_yes(parameters, "ENABLE_BATCH_PADDING"),
            reshape=_yes(parameters, "RESHAPE_IO_LAYERS"),
        )


def _threads(parameters: Mapping[str, str], instances: int) -> int:
    # As with streams: the number counts for all instances together.
    threads = _number(parameters, "INFERENCE_NUM_THREADS")
    return max(1, threads // instances) if threads else threads_per_instance(instances)


def _number(parameters: Mapping[str, str], key: str) -> int:
    return parse_whole_number(key, parameters[key]) if parameters.get(key) else 0


def _choice(parameters: Mapping[str, str], key: str, choices: tuple[str, ...]) -> str:
    chosen = next((choice for choice in choices if choice.lower() == parameters[key].lower()), None)
    if chosen is None:
        raise ModelError(f"parameter {key!r} must be {' or '.join(choices)}, got {parameters[key]!r}")
    return chosen


def _yes(parameters: Mapping[str, str], key: str) -> bool:
    return parameters.get(key, "").lower() == "yes"
