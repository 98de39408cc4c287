"""Whether models can run on an NVIDIA GPU here."""

from __future__ import annotations

import ctypes
import os

__all__ = ["gpu_is_usable"]


def gpu_is_usable() -> bool:
    """Whether a model served here can use an NVIDIA GPU.

    That takes a GPU that is visible to this process (driver library, device, `CUDA_VISIBLE_DEVICES`) and an ONNX
    Runtime with the CUDA provider: the `onnxruntime` wheel has none, `onnxruntime-gpu` has.
    """
    return _gpu_is_visible() and _onnxruntime_has_cuda()


def _gpu_is_visible() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in {"", "-1", "NoDevFiles"}:
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return bool(driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0)


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime  # noqa: PLC0415 - a second of imports, needed only where there is a GPU

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
