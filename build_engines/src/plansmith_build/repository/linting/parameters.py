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

_SWITCH = r"(?i)0|1|true|false"
_NUMBER = r"-?[0-9]+"
_TEXT = r"(?s).*"
_SHAPES = r"[^:,]+:[0-9]+(x[0-9]+)*(,[^:,]+:[0-9]+(x[0-9]+)*)*"


def _patterns(keys: Mapping[str, str]) -> dict[str, str]:
    """The pattern that each key's value has to match, from the keys of each pattern."""
    return {key: pattern for pattern, names in keys.items() for key in names.split()}


_ACCELERATORS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("gpu_execution_accelerator", "tensorrt"): _patterns(
        {
            r"FP32|FP16|BF16|INT8": "precision_mode",
            r"[0-5]": "trt_builder_optimization_level",
            _NUMBER: "max_workspace_size_bytes trt_max_partition_iterations trt_min_subgraph_size trt_dla_core "
            "trt_auxiliary_streams trt_ep_context_embed_mode",
            _SWITCH: "int8_use_native_calibration_table trt_dla_enable trt_engine_cache_enable trt_dump_subgraphs "
            "trt_force_sequential_engine_build trt_context_memory_sharing_enable trt_layer_norm_fp32_fallback "
            "trt_timing_cache_enable trt_force_timing_cache trt_detailed_build_log trt_build_heuristics_enable "
            "trt_sparsity_enable trt_cuda_graph_enable trt_dump_ep_context_model",
            _TEXT: "int8_calibration_table_name trt_engine_cache_path trt_engine_cache_prefix trt_timing_cache_path "
            "trt_tactic_sources trt_extra_plugin_lib_paths trt_ep_context_file_path",
            _SHAPES: "trt_profile_min_shapes trt_profile_opt_shapes trt_profile_max_shapes",
        }
    ),
    # The backend hands them on to ONNX Runtime (cuda_execution_provider_info.cc), which refuses any other.
    ("gpu_execution_accelerator", "cuda"): _patterns(
        {
            r"EXHAUSTIVE|HEURISTIC|DEFAULT": "cudnn_conv_algo_search",
            r"kNextPowerOfTwo|kSameAsRequested": "arena_extend_strategy",
            _NUMBER: "gpu_mem_limit sdpa_kernel tunable_op_max_tuning_duration_ms",
            _SWITCH: "do_copy_in_default_stream use_ep_level_unified_stream cudnn_conv_use_max_workspace "
            "cudnn_conv1d_pad_to_nc1d enable_cuda_graph enable_skip_layer_norm_strict_mode fuse_conv_bias prefer_nhwc "
            "tunable_op_enable tunable_op_tuning_enable use_tf32",
        }
    ),
    # Of the server from pip alone.
    ("gpu_execution_accelerator", "tensorrt_rtx"): _patterns(
        {
            _NUMBER: "nv_max_workspace_size nv_max_shared_mem_size",
            _SWITCH: "nv_detailed_build_log nv_multi_profile_enable enable_cuda_graph",
            _TEXT: "nv_runtime_cache_path nv_op_types_to_exclude",
            _SHAPES: "nv_profile_min_shapes nv_profile_opt_shapes nv_profile_max_shapes",
        }
    ),
    ("cpu_execution_accelerator", "openvino"): {},
}
_PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "onnxruntime": _patterns(
        {
            r"-1|[0-9]+": "intra_op_thread_count inter_op_thread_count",
            r"[01]": "execution_mode arena_extend_strategy",
            r"[0-2]": "cudnn_conv_algo_search",
            _NUMBER: "gpu_mem_limit",
            _SWITCH: "enable_mem_arena enable_mem_pattern session.use_device_allocator_for_initializers "
            "share_session_between_instances do_copy_in_default_stream",
            _TEXT: "memory.enable_memory_arena_shrinkage",
        }
    ),
    "openvino": _patterns(
        {
            _NUMBER: "INFERENCE_NUM_THREADS COMPILATION_NUM_THREADS",
            r"(?i)[0-9]+|AUTO|NUMA": "NUM_STREAMS",
            r"(?i)LATENCY|THROUGHPUT|CUMULATIVE_THROUGHPUT": "PERFORMANCE_HINT",
            r"(?i)yes": "HINT_BF16",
            r"(?i)f32|f16|bf16": "INFERENCE_PRECISION_HINT",
            r"(?i)yes|no": "SKIP_OV_DYNAMIC_BATCHSIZE ENABLE_BATCH_PADDING RESHAPE_IO_LAYERS",
            _TEXT: "CPU_EXTENSION_PATH TARGET_DEVICE",
        }
    ),
    # Of plansmith-server's backend; there is none of this name in the containers.
    "tensorrt_rtx": _patterns({_SWITCH: "cuda_graph", _TEXT: "runtime_cache_folder"}),
    "tensorrt": _patterns({r"STATIC|ON_PROFILE_CHANGE": "execution_context_allocation_strategy"}),
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
        elif not re.fullmatch(known[key], value.string_value):
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
                elif not re.fullmatch(known[key], value):
                    yield context.error(
                        f"{value!r} is not a valid value of parameter {key!r} of the accelerator {accelerator.name}",
                        "write 1 or 0" if known[key] == _SWITCH else "see the documentation of the accelerator",
                    )


def _suggestion(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "remove it"
