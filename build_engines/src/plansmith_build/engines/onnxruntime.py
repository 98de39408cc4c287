"""Running a model in this process with ONNX Runtime."""

from __future__ import annotations

import ctypes
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from plansmith_build.engines.cuda_libraries import load_cuda_libraries
from plansmith_build.reading.operators import runtime_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_build.reading.signatures import Signature

__all__ = ["CPU_PROVIDER", "Arrays", "RunFailed", "Session"]

CPU_PROVIDER = "CPUExecutionProvider"

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

# Beyond this, memory counts for more than speed.
LARGE_BYTES = 2**30
# So large are the weights of such a model in 16 bits at least; smaller models have no file of weights made for them.
LARGE_DATA_BYTES = LARGE_BYTES // 2

_BFLOAT16 = 16  # TensorProto.BFLOAT16
_LOG_FATAL = 4
# For what belongs to no session, such as its allocators.
onnxruntime.set_default_logger_severity(_LOG_FATAL)


class RunFailed(Exception):
    """ONNX Runtime did not load or run a model; the text is its sentence, for the caller to put in context."""


class Session:
    """A loaded model.

    Args:
        model: a file, or the bytes of one that needs no other file.
        optimized: whether ONNX Runtime may rewrite the graph. A reference is run as it was written.
        provider: what runs it.

    Attributes:
        description: what runs it, for tables and manifests.

    Raises:
        RunFailed: ONNX Runtime does not load it, or does not have the provider.
    """

    def __init__(
        self, model: Path | bytes, signature: Signature, *, optimized: bool, provider: str = CPU_PROVIDER
    ) -> None:
        device = provider.removesuffix("ExecutionProvider")
        where = "the CPU" if provider == CPU_PROVIDER else f"its {device} provider"
        self.description = f"ONNX Runtime {onnxruntime.__version__} on {where}"
        options = onnxruntime.SessionOptions()
        # What goes wrong is told by exceptions; its warnings would only disturb the progress display.
        options.log_severity_level = _LOG_FATAL
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        large = _is_large(model)
        if not optimized or large:
            # Weights laid out for speed are a second copy of them in memory.
            options.add_session_config_entry("session.disable_prepacking", "1")
        if large:
            # Each weight of 16 bits is widened when it is used: not all at the start, and not once for all runs.
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        self._bfloat16 = {spec.name for spec in (*signature.inputs, *signature.outputs) if spec.datatype == "BF16"}
        if provider != CPU_PROVIDER:
            load_cuda_libraries()
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else os.fspath(model),
                options,
                providers=[provider],
                disabled_optimizers=["ConstantFolding"] if large else None,
            )
        except Exception as error:
            raise RunFailed(str(error)) from error
        if self._session.get_providers()[0] != provider:
            raise RunFailed(f"the {device} provider did not start")
        self._output_names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        """Run the model once.

        Args:
            inputs: an array for each input, those with a default excepted.

        Returns:
            The outputs by name.

        Raises:
            RunFailed: ONNX Runtime reports an error.
        """
        # ONNX Runtime takes and gives text where the protocol has bytes.
        try:
            fed = {name: _as_text(name, array) if array.dtype.kind == "O" else array for name, array in inputs.items()}
            if self._bfloat16:
                return self._run_with_values(fed)
            return dict(zip(self._output_names, self._session.run(None, fed, _quiet()), strict=True))
        except RunFailed:
            raise
        except Exception as error:
            raise RunFailed(runtime_sentence(str(error))) from error

    def _run_with_values(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        """Feed and fetch bits: numpy has no bfloat16 of its own."""
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
            if name in self._bfloat16
            else onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in inputs.items()
        }
        outputs = self._session.run_with_ort_values(self._output_names, values, _quiet())
        return {
            name: _from_bfloat16(value) if name in self._bfloat16 else value.numpy()
            for name, value in zip(self._output_names, outputs, strict=True)
        }


def _quiet() -> Any:
    """Options of a run that writes nothing to the terminal: what it says of a hostile file would go there unseen."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _LOG_FATAL
    return options


def _as_text(name: str, array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    text = np.empty(array.shape, dtype=object)
    try:
        text.reshape(-1)[:] = [e.decode() if isinstance(e, bytes) else str(e) for e in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise RunFailed(f"input {name!r} holds text that is not UTF-8 ({error.reason})") from error
    return text


def _is_large(model: Path | bytes) -> bool:
    if isinstance(model, bytes):
        return False
    data = model.with_name(f"{model.name}.data")
    return data.exists() and data.stat().st_size > LARGE_DATA_BYTES


def _from_bfloat16(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    import ml_dtypes  # noqa: PLC0415 - only for models that need it

    shape = tuple(value.shape())
    bits = ctypes.string_at(value.data_ptr(), math.prod(shape) * 2)
    return np.frombuffer(bits, ml_dtypes.bfloat16).reshape(shape)
