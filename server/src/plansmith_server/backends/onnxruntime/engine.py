"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any

import onnxruntime

from plansmith_server.backends.datatypes import BFLOAT16, BFLOAT16_IN_ONNX, STRING
from plansmith_server.backends.model_file import find_model_file
from plansmith_server.backends.onnx_signature import read_onnx_signature
from plansmith_server.backends.onnxruntime.providers import CPU, choose_providers, wants_rtx_plugin
from plansmith_server.backends.onnxruntime.rtx_plugin import RTX, add_rtx_plugin, register_rtx_plugin
from plansmith_server.backends.onnxruntime.settings import SessionSettings
from plansmith_server.backends.tensors import bfloat16_bits
from plansmith_server.errors import ModelError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from plansmith_server.backends.engine import Instance

__all__ = ["OnnxRuntimeEngine"]

logger = logging.getLogger(__name__)


class OnnxRuntimeEngine:
    """An ONNX Runtime session.

    Raises:
        ModelError: the file or the configuration cannot be used.
    """

    def __init__(self, instance: Instance) -> None:
        config = instance.config
        path = find_model_file(instance.folder, config.model_file)
        self.signature = read_onnx_signature(path)
        settings = SessionSettings.from_config(config, instance.kind)
        available = onnxruntime.get_available_providers()
        if wants_rtx_plugin(config, instance.kind) and register_rtx_plugin():
            available = [*available, RTX]
        providers = choose_providers(config, instance.kind, instance.device, available)
        options = _session_options(settings)
        given: dict[str, Any] = {"providers": providers}
        if providers[0][0] == RTX:
            # Plugins are named in the options, and then nothing else may be.
            add_rtx_plugin(options, instance.device, providers[0][1])
            given = {}
        if instance.kind == "GPU":
            # CUDA, where pip put it beside ONNX Runtime and the dynamic loader does not look: without it a session
            # runs on the CPU, and only prints why.
            with contextlib.redirect_stdout(io.StringIO()):
                onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(str(path), options, **given)
        except Exception as error:
            # ONNX Runtime has an exception class for each status, without a common base below Exception.
            raise ModelError(f"ONNX Runtime cannot load {path.name}: {error}") from error
        missing = [name for name, _ in providers if name not in session.get_providers()]
        if missing:
            logger.warning("model %r runs without %s, which failed to start", config.name, ", ".join(missing))
        logger.info(
            "model %r: ONNX Runtime %s, %s, %s",
            config.name,
            onnxruntime.__version__,
            next(iter(session.get_providers()), CPU),
            f"{settings.intra_op_threads} threads" if settings.intra_op_threads else "a thread for each core",
        )
        self._session = session
        self._run_options = _run_options(settings)
        tensors = (*self.signature.inputs, *self.signature.optional_inputs, *self.signature.outputs)
        self._bfloat16 = frozenset(tensor.name for tensor in tensors if tensor.data_type == BFLOAT16)
        if self._bfloat16 and any(tensor.data_type == STRING for tensor in tensors):
            raise ModelError(
                "it has both text and bfloat16 among its inputs and outputs, which ONNX Runtime's Python API cannot mix"
            )

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.generic]]:
        """Compute `outputs` of `inputs`; bfloat16 as its bits in uint16.

        Raises:
            RequestError: an output is text that is not UTF-8.
        """
        if self._bfloat16:
            return self._run_with_bfloat16(outputs, inputs)
        try:
            arrays: list[NDArray[np.generic]] = self._session.run(outputs, inputs, self._run_options)
        except UnicodeDecodeError as error:
            raise RequestError(
                "an output is text that is not UTF-8, which ONNX Runtime's Python interface cannot return"
            ) from error
        return arrays

    def close(self) -> None:
        """Free the session."""
        del self._session

    def _run_with_bfloat16(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.generic]]:
        value = onnxruntime.OrtValue
        values = {
            name: value.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16_IN_ONNX)
            if name in self._bfloat16
            else value.ortvalue_from_numpy(array)
            for name, array in inputs.items()
        }
        results = self._session.run_with_ort_values(list(outputs), values, self._run_options)
        return [
            bfloat16_bits(result.__dlpack__()) if name in self._bfloat16 else result.numpy()
            for name, result in zip(outputs, results, strict=True)
        ]


def _session_options(settings: SessionSettings) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.intra_op_threads
    options.inter_op_num_threads = settings.inter_op_threads
    if settings.parallel:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, settings.graph_level)
    if settings.memory_arena is not None:
        options.enable_cpu_mem_arena = settings.memory_arena
    if settings.memory_pattern is not None:
        options.enable_mem_pattern = settings.memory_pattern
    for key, value in settings.session_entries.items():
        options.add_session_config_entry(key, value)
    for library in settings.operation_libraries:
        options.register_custom_ops_library(library)
    return options


def _run_options(settings: SessionSettings) -> Any:
    if not settings.run_entries:
        return None
    options = onnxruntime.RunOptions()
    for key, value in settings.run_entries.items():
        options.add_run_config_entry(key, value)
    return options
