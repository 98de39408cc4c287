"""A GPU that is none: CUDA's runtime in ordinary memory, and TensorRT for RTX's runtime that runs ONNX Runtime.

Both record what is called, and refuse what the real ones would refuse: memory that was not allocated, a copy over its
end, a run before shapes and addresses are set, anything after it was freed. Enumerations are the real ones, and a
method that the real class does not have is a mistake here, too.
"""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import tensorrt_rtx_bindings as real
from cuda.bindings import runtime as real_cuda

__all__ = ["FakeCuda", "FakeRtx", "FakeTensorRT"]

SUCCESS = real_cuda.cudaError_t.cudaSuccess
KIND = real_cuda.cudaMemcpyKind


class FakeCuda:
    """What the backend uses of `cuda.bindings.runtime`."""

    cudaError_t = real_cuda.cudaError_t  # noqa: N815 - NVIDIA's names, here and below
    cudaMemcpyKind = KIND  # noqa: N815

    def __init__(self, *, memory: int = 2**30) -> None:
        self.calls: list[str] = []
        self.allocated: dict[int, ctypes.Array[Any]] = {}
        self.on_host: dict[int, ctypes.Array[Any]] = {}
        self.streams: set[int] = set()
        self.events: dict[int, int] = {}
        self.runs = 0
        self.device: int | None = None
        self._memory = memory

    def cudaSetDevice(self, device: int) -> tuple[Any]:  # noqa: N802
        self.calls.append("cudaSetDevice")
        self.device = device
        return (SUCCESS,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:  # noqa: N802
        assert device == self.device
        return SUCCESS, SimpleNamespace(name=b"NVIDIA RTX 4000 SFF Ada Generation")

    def cudaMalloc(self, size: int) -> tuple[Any, int | None]:  # noqa: N802
        self.calls.append("cudaMalloc")
        assert self.device is not None
        if sum(map(len, self.allocated.values())) + size > self._memory:
            return real_cuda.cudaError_t.cudaErrorMemoryAllocation, None
        # What was there before is anything.
        block = (ctypes.c_char * size).from_buffer(bytearray(b"\xa5" * size))
        self.allocated[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def cudaFree(self, pointer: int) -> tuple[Any]:  # noqa: N802
        self.calls.append("cudaFree")
        del self.allocated[pointer]
        return (SUCCESS,)

    def cudaMallocHost(self, size: int) -> tuple[Any, int]:  # noqa: N802
        self.calls.append("cudaMallocHost")
        block = (ctypes.c_char * size)()
        self.on_host[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def cudaFreeHost(self, pointer: int) -> tuple[Any]:  # noqa: N802
        del self.on_host[pointer]
        return (SUCCESS,)

    def cudaEventCreate(self) -> tuple[Any, int]:  # noqa: N802
        self.events[len(self.events) + 1] = -1
        return SUCCESS, len(self.events)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any]:  # noqa: N802
        assert stream in self.streams
        self.events[event] = self.runs
        return (SUCCESS,)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:  # noqa: N802
        assert self.events[event] >= 0
        return (SUCCESS,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, float]:  # noqa: N802
        # Each run takes two milliseconds.
        return SUCCESS, 2.0 * (self.events[end] - self.events[start])

    def cudaEventDestroy(self, event: int) -> tuple[Any]:  # noqa: N802
        self.events[event] = -1
        return (SUCCESS,)

    def cudaStreamCreate(self) -> tuple[Any, int]:  # noqa: N802
        self.calls.append("cudaStreamCreate")
        self.streams.add(len(self.streams) + 1)
        return SUCCESS, len(self.streams)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:  # noqa: N802
        self.calls.append("cudaStreamDestroy")
        self.streams.remove(stream)
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:  # noqa: N802
        self.calls.append("cudaStreamSynchronize")
        assert stream in self.streams
        return (SUCCESS,)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: Any, stream: int) -> tuple[Any]:  # noqa: N802
        self.calls.append(f"cudaMemcpyAsync {kind.name.removeprefix('cudaMemcpy')}")
        assert stream in self.streams
        on_device = {KIND.cudaMemcpyHostToDevice: target, KIND.cudaMemcpyDeviceToHost: source}[kind]
        assert count <= len(self.allocated[on_device]), "a copy over the end of what was allocated"
        ctypes.memmove(target, source, count)
        return (SUCCESS,)


class FakeRtx:
    """What the backend uses of `tensorrt_rtx_bindings`, for one model in ONNX.

    Args:
        model: what the engine computes.
        profile: smallest, best and largest shape of each input; a list of them for several profiles.
        cuda: where its memory is.
        fits: what the library says of the engine: None for nothing wrong, else the names of diagnostics.
    """

    __version__ = real.__version__
    Logger = real.Logger
    EngineValidity = real.EngineValidity
    EngineInvalidityDiagnostics = real.EngineInvalidityDiagnostics
    TensorIOMode = real.TensorIOMode
    TensorLocation = real.TensorLocation
    CudaGraphStrategy = real.CudaGraphStrategy
    DataType = real.DataType

    def __init__(self, model: bytes, profile: Any, cuda: FakeCuda, *, fits: tuple[str, ...] = ()) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.profiles = profile if isinstance(profile, list) else [profile]
        self.cuda, self.fits = cuda, fits
        self.calls: list[str] = []
        self.graph_strategy = real.CudaGraphStrategy.DISABLED
        self.kernels: bytes | None = None

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        assert isinstance(logger, real.Logger)
        return _only(real.Runtime, _Runtime(self))


class FakeTensorRT(FakeRtx):
    """What a plan session uses of `tensorrt`: nearly the same.

    Args:
        host_code: whether the plan holds code for the CPU, as version-compatible ones do.
    """

    def __init__(self, *words: Any, host_code: bool = False) -> None:
        super().__init__(*words)
        self.host_code = host_code
        self.plugins = False

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        assert isinstance(logger, real.Logger)
        assert namespace == ""
        self.plugins = True
        return True

    nptype = staticmethod(real.nptype)


class _Runtime:
    engine_header_size = 64
    engine_host_code_allowed = False

    def __init__(self, rtx: FakeRtx) -> None:
        self._rtx = rtx

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        self._rtx.calls.append("get_engine_validity")
        assert len(buffer) == self.engine_header_size
        bits = sum(int(getattr(real.EngineInvalidityDiagnostics, name)) for name in self._rtx.fits)
        return (real.EngineValidity.INVALID if bits else real.EngineValidity.VALID), bits

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self._rtx.calls.append("deserialize_cuda_engine")
        if isinstance(self._rtx, FakeTensorRT):
            refused = not self._rtx.plugins or (self._rtx.host_code and not self.engine_host_code_allowed)
            return None if refused else _only(real.ICudaEngine, _Engine(self._rtx))
        return _only(real.ICudaEngine, _Engine(self._rtx)) if serialized_engine[:4] == b"vtrt" else None


class _Engine:
    def __init__(self, rtx: FakeRtx) -> None:
        self._rtx = rtx
        self._inputs = {entry.name: entry for entry in rtx.session.get_inputs()}
        self._outputs = {entry.name: entry for entry in rtx.session.get_outputs()}
        self.num_io_tensors = len(self._inputs) + len(self._outputs)
        self.num_optimization_profiles = len(rtx.profiles)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return real.TensorIOMode.INPUT if name in self._inputs else real.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(double)": "FP8"}
        return getattr(real.DataType, kinds[(self._inputs | self._outputs)[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(s if isinstance(s, int) else -1 for s in (self._inputs | self._outputs)[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return list(self._rtx.profiles[profile_index][name])

    def get_tensor_location(self, name: str) -> Any:
        assert name in self._inputs | self._outputs
        return real.TensorLocation.DEVICE

    def create_runtime_config(self) -> Any:
        return _only(real.IRuntimeConfig, _RuntimeConfig(self._rtx))

    def create_execution_context(self, runtime_config: Any = None) -> Any:
        assert isinstance(self._rtx, FakeTensorRT) or runtime_config.has_cache
        self._rtx.calls.append("create_execution_context")
        return _only(real.IExecutionContext, _Context(self._rtx))


class _RuntimeConfig:
    def __init__(self, rtx: FakeRtx) -> None:
        self.__dict__.update(_rtx=rtx, has_cache=False)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name == "cuda_graph_strategy"
        self._rtx.graph_strategy = value

    def create_runtime_cache(self) -> Any:
        return _only(real.IRuntimeCache, _Cache(self._rtx))

    def set_runtime_cache(self, cache: Any) -> bool:
        assert cache is not None
        self.__dict__["has_cache"] = True
        return True


class _Cache:
    def __init__(self, rtx: FakeRtx) -> None:
        self._rtx = rtx

    def serialize(self) -> bytes:
        return self._rtx.kernels or b""

    def deserialize(self, blob: bytes) -> bool:
        # The real one refuses what another GPU or version wrote.
        if not blob.startswith(b"kernels"):
            return False
        self._rtx.kernels = blob
        self._rtx.calls.append("kernels reused")
        return True


class _Context:
    def __init__(self, rtx: FakeRtx) -> None:
        self._rtx = rtx
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._profile = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._rtx.calls.append(f"set_optimization_profile_async {profile_index}")
        assert stream_handle in self._rtx.cuda.streams
        self._profile = profile_index
        # As the real one: every shape has to be set again.
        self._shapes = {}
        return profile_index < len(self._rtx.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._rtx.calls.append("set_input_shape")
        low, _, high = self._rtx.profiles[self._profile][name]
        fits = len(shape) == len(low) and all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory in self._rtx.cuda.allocated
        self._addresses[name] = memory
        return True

    def get_max_output_size(self, name: str) -> int:
        return self._outputs(zeros=True)[name].nbytes

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._outputs(zeros=True)[name].shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._rtx.calls.append("execute_async_v3")
        assert stream_handle in self._rtx.cuda.streams
        self._rtx.cuda.runs += 1
        for name, array in self._outputs(zeros=False).items():
            assert array.nbytes <= len(self._rtx.cuda.allocated[self._addresses[name]])
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self._rtx.kernels = self._rtx.kernels or b"kernels of this GPU"
        return True

    def _outputs(self, *, zeros: bool) -> dict[str, np.ndarray]:
        feeds = {}
        for entry in self._rtx.session.get_inputs():
            shape = self._shapes[entry.name]
            dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}[entry.type]
            if zeros:
                feeds[entry.name] = np.zeros(shape, dtype)
            else:
                size = math.prod(shape) * np.dtype(dtype).itemsize
                content = ctypes.string_at(self._addresses[entry.name], size)
                feeds[entry.name] = np.frombuffer(content, dtype).reshape(shape)
        names = [entry.name for entry in self._rtx.session.get_outputs()]
        return dict(zip(names, self._rtx.session.run(names, feeds), strict=True))


def _only(real_class: Any, stand_in: Any) -> Any:
    """The stand-in, which must not have what the real class does not have."""
    own = {name for name in dir(type(stand_in)) if not name.startswith("_")}
    unknown = own - set(dir(real_class))
    assert not unknown, f"{real_class.__name__} has no {unknown}"
    return stand_in
