"""Execution providers from config.pbtxt, under the names of Triton's native ONNX Runtime backend.

Source: github.com/triton-inference-server/onnxruntime_backend, README.md and `ModelState::LoadModel` in
src/onnxruntime.cc. As there, GPU accelerators apply to instances on a GPU only, CPU accelerators to all, and a
parameter that the TensorRT accelerator does not know fails the load. `tensorrt_rtx` is of this backend alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from plansmith_server.backends.config import parse_switch, parse_whole_number
from plansmith_server.backends.onnxruntime.rtx_plugin import RTX
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from plansmith_server.backends.config import Accelerator, ModelConfig

__all__ = ["Provider", "choose_providers", "wants_rtx_plugin"]

logger = logging.getLogger(__name__)

Provider = tuple[str, dict[str, str]]
Kind = Literal["switch", "number", "text"]

TENSORRT, CUDA, OPENVINO, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "OpenVINO", "CPU"))

PRECISIONS = {"FP32": None, "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
# Key in config.pbtxt: key of ONNX Runtime, where they differ.
TENSORRT_RENAMED = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
TENSORRT_KEYS: dict[str, Kind] = {
    "max_workspace_size_bytes": "number",
    "int8_calibration_table_name": "text",
    "int8_use_native_calibration_table": "switch",
    "trt_max_partition_iterations": "number",
    "trt_min_subgraph_size": "number",
    "trt_dla_enable": "switch",
    "trt_dla_core": "number",
    "trt_engine_cache_enable": "switch",
    "trt_engine_cache_path": "text",
    "trt_engine_cache_prefix": "text",
    "trt_dump_subgraphs": "switch",
    "trt_force_sequential_engine_build": "switch",
    "trt_context_memory_sharing_enable": "switch",
    "trt_layer_norm_fp32_fallback": "switch",
    "trt_timing_cache_enable": "switch",
    "trt_timing_cache_path": "text",
    "trt_force_timing_cache": "switch",
    "trt_detailed_build_log": "switch",
    "trt_build_heuristics_enable": "switch",
    "trt_sparsity_enable": "switch",
    "trt_builder_optimization_level": "number",
    "trt_auxiliary_streams": "number",
    "trt_tactic_sources": "text",
    "trt_extra_plugin_lib_paths": "text",
    "trt_profile_min_shapes": "text",
    "trt_profile_max_shapes": "text",
    "trt_profile_opt_shapes": "text",
    "trt_cuda_graph_enable": "switch",
    "trt_dump_ep_context_model": "switch",
    "trt_ep_context_file_path": "text",
    "trt_ep_context_embed_mode": "number",
}
RTX_KEYS: dict[str, Kind] = {
    "nv_max_workspace_size": "number",
    "nv_max_shared_mem_size": "number",
    "nv_detailed_build_log": "switch",
    "nv_profile_min_shapes": "text",
    "nv_profile_opt_shapes": "text",
    "nv_profile_max_shapes": "text",
    "nv_multi_profile_enable": "switch",
    "nv_runtime_cache_path": "text",
    "nv_op_types_to_exclude": "text",
    "enable_cuda_graph": "switch",
}
CUDA_SWITCHES = ("do_copy_in_default_stream", "use_ep_level_unified_stream")
# Parameters of the model (an older way to say it): the values, in the order of their numbers there.
CUDA_CHOICES = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
CUDA_COPIED = ("gpu_mem_limit", "do_copy_in_default_stream")


def choose_providers(config: ModelConfig, kind: str, device: int, available: Collection[str]) -> list[Provider]:
    """The providers of a session, best first, with their options.

    Providers that the configuration asks for and this ONNX Runtime lacks are left out, with a warning in the log.

    Args:
        config: of the model.
        kind: "CPU" or "GPU", of the instance.
        device: the number of the GPU.
        available: what ONNX Runtime offers here.

    Raises:
        ModelError: an accelerator, a parameter of it or a value is unknown.
    """
    chosen = _gpu_providers(config, device, available) if kind == "GPU" else []
    if kind != "GPU":
        _mention_unused(config)
    for accelerator in config.cpu_accelerators:
        if accelerator.name != "openvino":
            raise ModelError(f"unknown CPU accelerator {accelerator.name!r}: use openvino")
        if OPENVINO in available:
            chosen.append((OPENVINO, {"device_type": "CPU"}))
        else:
            logger.warning(
                "model %r: this ONNX Runtime has no OpenVINO provider, so its CPU provider runs"
                " the model; the backend openvino uses OpenVINO",
                config.name,
            )
    return [*chosen, (CPU, {})]


def wants_rtx_plugin(config: ModelConfig, kind: str) -> bool:
    """Whether the provider of TensorRT for RTX is asked for, which has to be registered first."""
    return kind == "GPU" and any(accelerator.name == "tensorrt_rtx" for accelerator in config.gpu_accelerators)


def _gpu_providers(config: ModelConfig, device: int, available: Collection[str]) -> list[Provider]:
    chosen: list[Provider] = []
    cuda: dict[str, str] = {"device_id": str(device)}
    for accelerator in config.gpu_accelerators:
        options = _gpu_options(accelerator)
        if accelerator.name == "cuda":
            cuda.update(options)
        elif accelerator.name == "tensorrt_rtx":
            # The package's registration has said why, where it is missing.
            if RTX in available:
                return [(RTX, options)]
        elif TENSORRT in available:
            chosen.append((TENSORRT, {**options, "device_id": str(device)}))
        else:
            logger.warning("model %r: this ONNX Runtime has no TensorRT provider; it is not used", config.name)
    cuda.update(_older_cuda_options(config.parameters))
    if CUDA in available:
        chosen.append((CUDA, cuda))
    else:
        logger.warning(
            "model %r: this ONNX Runtime has no CUDA provider, so the model runs on the CPU; install onnxruntime-gpu"
            " instead of onnxruntime to have it",
            config.name,
        )
    return chosen


def _mention_unused(config: ModelConfig) -> None:
    for accelerator in config.gpu_accelerators:
        logger.info("model %r: the accelerator %s needs a GPU; the CPU is used", config.name, accelerator.name)
        try:
            _gpu_options(accelerator)
        except ModelError as error:
            logger.warning("model %r will not load on a GPU: %s", config.name, error)


def _gpu_options(accelerator: Accelerator) -> dict[str, str]:
    if accelerator.name == "tensorrt":
        return _tensorrt_options(accelerator)
    if accelerator.name == "cuda":
        return _cuda_options(accelerator)
    if accelerator.name == "tensorrt_rtx":
        return {key: _checked("tensorrt_rtx", RTX_KEYS, key, value) for key, value in accelerator.parameters.items()}
    raise ModelError(f"unknown GPU accelerator {accelerator.name!r}: use tensorrt, cuda or tensorrt_rtx")


def _tensorrt_options(accelerator: Accelerator) -> dict[str, str]:
    options = {}
    for key, value in accelerator.parameters.items():
        if key == "precision_mode":
            if value not in PRECISIONS:
                raise ModelError(f"precision_mode {value!r} is not valid: use {', '.join(PRECISIONS)}")
            switch = PRECISIONS[value]
            if switch is not None:
                options[switch] = "1"
            continue
        options[TENSORRT_RENAMED.get(key, key)] = _checked("tensorrt", TENSORRT_KEYS, key, value)
    return options


def _checked(accelerator: str, known: Mapping[str, Kind], key: str, value: str) -> str:
    kind = known.get(key)
    if kind is None:
        raise ModelError(f"the accelerator {accelerator} has no parameter {key!r}")
    if kind == "switch":
        parse_switch(key, value)
    elif kind == "number":
        parse_whole_number(key, value, smallest=-1)
    return value


def _cuda_options(accelerator: Accelerator) -> dict[str, str]:
    # ONNX Runtime itself refuses a key that it does not know.
    for key in CUDA_SWITCHES:
        if key in accelerator.parameters:
            parse_switch(key, accelerator.parameters[key])
    return dict(accelerator.parameters)


def _older_cuda_options(parameters: Mapping[str, str]) -> dict[str, str]:
    options = {key: parameters[key] for key in CUDA_COPIED if key in parameters}
    for key, choices in CUDA_CHOICES.items():
        if key in parameters:
            number = parse_whole_number(key, parameters[key])
            if number >= len(choices):
                raise ModelError(f"parameter {key!r} must be from 0 to {len(choices) - 1}, got {number}")
            options[key] = choices[number]
    return options
