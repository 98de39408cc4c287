"""ONNX Runtime's plugin provider of TensorRT for RTX: a package of its own, which is registered before it is used.

Its options: `tensorrt_rtx_provider_options.h` of the package onnxruntime-ep-nv-tensorrt-rtx.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

import onnxruntime

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RTX", "add_rtx_plugin", "register_rtx_plugin"]

logger = logging.getLogger(__name__)

RTX = "NvTensorRTRTXExecutionProvider"
_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"


def register_rtx_plugin() -> bool:
    """Make the provider known to ONNX Runtime; where that fails, the log has the reason."""
    if _devices():
        return True
    try:
        plugin = import_module(_PACKAGE)
    except ImportError:
        logger.warning("pip install onnxruntime-ep-nv-tensorrt-rtx-cu12 to have the accelerator tensorrt_rtx")
        return False
    try:
        onnxruntime.register_execution_provider_library(RTX, plugin.get_library_path())
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has an exception class for each status
        # Without CUDA's driver, for example.
        logger.warning("the accelerator tensorrt_rtx cannot be used: %s", error)
        return False
    if not _devices():
        logger.warning("the accelerator tensorrt_rtx cannot be used: it finds no RTX GPU")
        return False
    return True


def add_rtx_plugin(options: Any, device: int, parameters: Mapping[str, str]) -> None:
    """Let a session use the provider, and the CPU for what it does not take.

    Raises:
        ModelError: there is no such GPU.
    """
    devices = _devices()
    if device >= len(devices):
        raise ModelError(f"the accelerator tensorrt_rtx finds {len(devices)} RTX GPUs, and the instance is on {device}")
    options.add_provider_for_devices([devices[device]], dict(parameters))


def _devices() -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == RTX]
