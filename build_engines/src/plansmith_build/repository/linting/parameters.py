"""Parameters and accelerators that a backend knows, and the values that it takes.

Sources: the READMEs and model states of triton-inference-server/onnxruntime_backend, tensorrt_backend and
openvino_backend. An unknown key of the TensorRT accelerator fails the load, on the GPU machine and not before; an
unknown parameter of a model is ignored, and nearly always misspelled.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from plansmith_client.image_rows import RECIPE_PARAMETER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_parameters"]

_SWITCH = re.compile(r"0|1|true|false", re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9]+")
_THREADS = re.compile(r"-1|[0-9]+")
_TEXT = re.compile(r".*", re.DOTALL)
_SHAPES = re.compile(r"[^:,]+:[0-9]+(x[0-9]+)*(,[^:,]+:[0-9]+(x[0-9]+)*)*")

_TENSORRT_ACCELERATOR: Mapping[str, re.Pattern[str]] = {
    "precision_mode": re.compile(r"FP32|FP16|BF16|INT8"),
    "max_workspace_size_bytes": _NUMBER,
    "int8_calibration_table_name": _TEXT,
    "int8_use_native_calibration_table": _SWITCH,
    "trt_max_partition_iterations": _NUMBER,
    "trt_min_subgraph_size": _NUMBER,
    "trt_dla_enable": _SWITCH,
    "trt_dla_core": _NUMBER,
    "trt_engine_cache_enable": _SWITCH,
    "trt_engine_cache_path": _TEXT,
    "trt_engine_cache_prefix": _TEXT,
    "trt_dump_subgraphs": _SWITCH,
    "trt_force_sequential_engine_build": _SWITCH,
    "trt_context_memory_sharing_enable": _SWITCH,
    "trt_layer_norm_fp32_fallback": _SWITCH,
    "trt_timing_cache_enable": _SWITCH,
    "trt_timing_cache_path": _TEXT,
    "trt_force_timing_cache": _SWITCH,
    "trt_detailed_build_log": _SWITCH,
    "trt_build_heuristics_enable": _SWITCH,
    "trt_sparsity_enable": _SWITCH,
    "trt_builder_optimization_level": re.compile(r"[0-5]"),
    "trt_auxiliary_streams": _NUMBER,
    "trt_tactic_sources": _TEXT,
    "trt_extra_plugin_lib_paths": _TEXT,
    "trt_profile_min_shapes": _SHAPES,
    "trt_profile_opt_shapes": _SHAPES,
    "trt_profile_max_shapes": _SHAPES,
    "trt_cuda_graph_enable": _SWITCH,
    "trt_dump_ep_context_model": _SWITCH,
    "trt_ep_context_file_path": _TEXT,
    "trt_ep_context_embed_mode": _NUMBER,
}
_CUDA_ACCELERATOR: Mapping[str, re.Pattern[str]] = {
    # The backend hands them on to ONNX Runtime (cuda_execution_provider_info.cc), which refuses any other.
    "cudnn_conv_algo_search": re.compile(r"EXHAUSTIVE|HEURISTIC|DEFAULT"),
    "gpu_mem_limit": _NUMBER,
    "arena_extend_strategy": re.compile(r"kNextPowerOfTwo|kSameAsRequested"),
    "do_copy_in_default_stream": _SWITCH,
    "use_ep_level_unified_stream": _SWITCH,
    "cudnn_conv_use_max_workspace": _SWITCH,
    "cudnn_conv1d_pad_to_nc1d": _SWITCH,
    "enable_cuda_graph": _SWITCH,
    "enable_skip_layer_norm_strict_mode": _SWITCH,
    "fuse_conv_bias": _SWITCH,
    "prefer_nhwc": _SWITCH,
    "sdpa_kernel": _NUMBER,
    "tunable_op_enable": _SWITCH,
    "tunable_op_tuning_enable": _SWITCH,
    "tunable_op_max_tuning_duration_ms": _NUMBER,
    "use_tf32": _SWITCH,
}
_RTX_ACCELERATOR: Mapping[str, re.Pattern[str]] = {
    # Of the server from pip alone.
    "nv_max_workspace_size": _NUMBER,
    "nv_max_shared_mem_size": _NUMBER,
    "nv_detailed_build_log": _SWITCH,
    "nv_profile_min_shapes": _SHAPES,
    "nv_profile_opt_shapes": _SHAPES,
    "nv_profile_max_shapes": _SHAPES,
    "nv_multi_profile_enable": _SWITCH,
    "nv_runtime_cache_path": _TEXT,
    "nv_op_types_to_exclude": _TEXT,
    "enable_cuda_graph": _SWITCH,
}
_ACCELERATORS: Mapping[tuple[str, str], Mapping[str, re.Pattern[str]]] = {
    ("gpu_execution_accelerator", "tensorrt"): _TENSORRT_ACCELERATOR,
    ("gpu_execution_accelerator", "cuda"): _CUDA_ACCELERATOR,
    ("gpu_execution_accelerator", "tensorrt_rtx"): _RTX_ACCELERATOR,
    ("cpu_execution_accelerator", "openvino"): {},
}
_PARAMETERS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "onnxruntime": {
        "intra_op_thread_count": _THREADS,
        "inter_op_thread_count": _THREADS,
        "execution_mode": re.compile(r"[01]"),
        "enable_mem_arena": _SWITCH,
        "enable_mem_pattern": _SWITCH,
        "memory.enable_memory_arena_shrinkage": _TEXT,
        "session.use_device_allocator_for_initializers": _SWITCH,
        "share_session_between_instances": _SWITCH,
        "cudnn_conv_algo_search": re.compile(r"[0-2]"),
        "gpu_mem_limit": _NUMBER,
        "arena_extend_strategy": re.compile(r"[01]"),
        "do_copy_in_default_stream": _SWITCH,
    },
    "openvino": {
        "INFERENCE_NUM_THREADS": _NUMBER,
        "COMPILATION_NUM_THREADS": _NUMBER,
        "NUM_STREAMS": re.compile(r"[0-9]+|AUTO|NUMA", re.IGNORECASE),
        "PERFORMANCE_HINT": re.compile(r"LATENCY|THROUGHPUT|CUMULATIVE_THROUGHPUT", re.IGNORECASE),
        "HINT_BF16": re.compile(r"yes", re.IGNORECASE),
        "INFERENCE_PRECISION_HINT": re.compile(r"f32|f16|bf16", re.IGNORECASE),
        "CPU_EXTENSION_PATH": _TEXT,
        "SKIP_OV_DYNAMIC_BATCHSIZE": re.compile(r"yes|no", re.IGNORECASE),
        "ENABLE_BATCH_PADDING": re.compile(r"yes|no", re.IGNORECASE),
        "RESHAPE_IO_LAYERS": re.compile(r"yes|no", re.IGNORECASE),
        "TARGET_DEVICE": _TEXT,
    },
    # Of plansmith-server's backend; there is none of this name in the containers.
    "tensorrt_rtx": {"cuda_graph": _SWITCH, "runtime_cache_folder": _TEXT},
    "tensorrt": {"execution_context_allocation_strategy": re.compile(r"STATIC|ON_PROFILE_CHANGE")},
}
# Of Triton's Python backend, on which plansmith-server's backends stand.
_OF_PYTHON = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")


def check_parameters(context: ConfigContext) -> Iterator[Finding]:
    """Unknown keys and invalid values."""
    yield from _check_accelerators(context)
    known = _PARAMETERS.get(context.backend)
    if known is None:
        return
    for key, value in context.config.parameters.items():
        if key in (RECIPE_PARAMETER, *_OF_PYTHON):
            # The former is for clients: every server ignores it.
            continue
        if key not in known:
            yield context.warning(
                f"backend {context.backend} has no parameter {key!r}, so the server ignores it", _suggestion(key, known)
            )
        elif not known[key].fullmatch(value.string_value):
            yield context.error(
                f"{value.string_value!r} is not a valid value of parameter {key!r}",
                f"see the documentation of the backend {context.backend}",
            )


def _check_accelerators(context: ConfigContext) -> Iterator[Finding]:
    accelerators = context.config.optimization.execution_accelerators
    for kind in ("gpu_execution_accelerator", "cpu_execution_accelerator"):
        for accelerator in getattr(accelerators, kind):
            if context.backend not in {"onnxruntime", ""}:
                yield context.warning(
                    f"backend {context.backend} does not read execution accelerators",
                    "remove the block, or serve the model with backend onnxruntime",
                )
                continue
            known = _ACCELERATORS.get((kind, accelerator.name))
            if known is None:
                names = ", ".join(name for where, name in _ACCELERATORS if where == kind)
                yield context.error(f"{accelerator.name!r} is not a {kind}", f"name one of {names}")
                continue
            for key, value in accelerator.parameters.items():
                if key not in known:
                    yield context.error(
                        f"the accelerator {accelerator.name} has no parameter {key!r}, so the model does not load",
                        _suggestion(key, known),
                    )
                elif not known[key].fullmatch(value):
                    yield context.error(
                        f"{value!r} is not a valid value of parameter {key!r} of the accelerator {accelerator.name}",
                        "write 1 or 0" if known[key] is _SWITCH else "see the documentation of the accelerator",
                    )


def _suggestion(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "remove it"
