"""Running a plan on the GPU, to judge and time it like every other candidate."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.engines.onnxruntime import RunFailed
from plansmith_build.engines.tensorrt.plans import load_plan, on_device

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["PlanSession"]


class PlanSession:
    """A loaded plan; its memory is allocated once and grows where a larger request comes.

    Args:
        path: the plan.
        device: the number of the GPU.
        version_compatible: whether it was built so: it then holds code for the CPU, too, which has to be allowed.

    Raises:
        RunFailed: it does not load.
    """

    def __init__(self, path: Path, *, device: int, version_compatible: bool = False) -> None:
        import tensorrt as trt  # noqa: PLC0415 - gigabytes that only GPU machines have
        from cuda.bindings import runtime as cuda  # noqa: PLC0415

        self.description = f"TensorRT {trt.__version__} on GPU {device}"
        self._device = device
        with on_device(device):
            self._runtime, engine = load_plan(path, version_compatible=version_compatible)
            if engine is None:
                raise RunFailed("TensorRT does not load the plan")
            context = engine.create_execution_context()
            self._stream = int(_check(cuda, cuda.cudaStreamCreate()))
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        inputs = [name for name in names if name not in self._outputs]
        self._profiles = [
            {name: engine.get_tensor_profile_shape(name, number) for name in inputs}
            for number in range(engine.num_optimization_profiles)
        ]
        self._profile = 0
        self._places: dict[str, _Place] = {}

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        """The outputs by name.

        Raises:
            RunFailed: a dtype or shape is not the plan's, TensorRT or CUDA reports an error, or an output's shape
                depends on the data.
        """
        from cuda.bindings import runtime as cuda  # noqa: PLC0415 - as above

        with on_device(self._device):
            shapes = self._prepare(inputs)
            self._enqueue(list(inputs))
            _check(cuda, cuda.cudaStreamSynchronize(self._stream))
        return {name: self._places[name].array(shape, self._dtype(name)).copy() for name, shape in shapes.items()}

    def seconds_per_run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]], runs: int) -> float:
        """What a run takes on the GPU, copies there and back included, by the GPU's own clock.

        Raises:
            RunFailed: as `run`.
        """
        from cuda.bindings import runtime as cuda  # noqa: PLC0415 - as above

        with on_device(self._device):
            self._prepare(inputs)
            events = [_check(cuda, cuda.cudaEventCreate()) for _ in range(2)]
            try:
                _check(cuda, cuda.cudaEventRecord(events[0], self._stream))
                for _ in range(runs):
                    self._enqueue(list(inputs))
                _check(cuda, cuda.cudaEventRecord(events[1], self._stream))
                _check(cuda, cuda.cudaEventSynchronize(events[1]))
                milliseconds = _check(cuda, cuda.cudaEventElapsedTime(events[0], events[1]))
            finally:
                for event in events:
                    cuda.cudaEventDestroy(event)
        return float(milliseconds) / 1000 / runs

    def close(self) -> None:
        """Give the memory back."""
        from cuda.bindings import runtime as cuda  # noqa: PLC0415 - as above

        with on_device(self._device):
            for place in self._places.values():
                place.free(cuda)
            self._places.clear()
            cuda.cudaStreamDestroy(self._stream)

    def _prepare(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> dict[str, tuple[int, ...]]:
        """Put inputs where they are copied from, and tell the shapes of the outputs."""
        import tensorrt as trt  # noqa: PLC0415 - as above

        engine, context = self._engine, self._context
        self._choose_profile({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            if array.dtype != self._dtype(name):
                raise RunFailed(f"input {name!r} is {array.dtype}, and the plan reads {self._dtype(name)}")
            if not context.set_input_shape(name, array.shape):
                raise RunFailed(f"{list(array.shape)} of input {name!r} is not within the optimization profile")
            place = self._place(name, array.nbytes)
            place.array(array.shape, array.dtype)[...] = array
            on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            place.on_host = on_host
            context.set_tensor_address(name, place.host if on_host else place.device)
        shapes = {}
        for name in self._outputs:
            shape = tuple(context.get_tensor_shape(name))
            if -1 in shape:
                raise RunFailed(f"the shape of output {name!r} depends on the data")
            shapes[name] = shape
            place = self._place(name, math.prod(shape) * self._dtype(name).itemsize)
            context.set_tensor_address(name, place.device)
        return shapes

    def _choose_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Use the first profile that takes these shapes; where none does, setting a shape says so."""
        fitting = (
            number
            for number, profile in enumerate(self._profiles)
            if all(_is_within(shape, *profile[name]) for name, shape in shapes.items() if name in profile)
        )
        number = next(fitting, self._profile)
        if number != self._profile:
            context = self._context
            if not context.set_optimization_profile_async(number, self._stream):
                raise RunFailed(f"TensorRT did not take its optimization profile {number}")
            self._profile = number

    def _enqueue(self, inputs: list[str]) -> None:
        from cuda.bindings import runtime as cuda  # noqa: PLC0415 - as above

        context, stream = self._context, self._stream
        for name in inputs:
            place = self._places[name]
            if not place.on_host:
                to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
                _check(cuda, cuda.cudaMemcpyAsync(place.device, place.host, place.used, to_device, stream))
        if not context.execute_async_v3(stream):
            raise RunFailed("TensorRT could not run the plan; its log on standard error says why")
        for name in self._outputs:
            place = self._places[name]
            to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            _check(cuda, cuda.cudaMemcpyAsync(place.host, place.device, place.used, to_host, stream))

    def _place(self, name: str, size: int) -> _Place:
        from cuda.bindings import runtime as cuda  # noqa: PLC0415 - as above

        place = self._places.get(name)
        if place is None or place.size < size:
            if place is not None:
                place.free(cuda)
                del self._places[name]
            place = self._places[name] = _Place(cuda, max(1, size))
        place.used = size
        return place

    def _dtype(self, name: str) -> np.dtype[Any]:
        import tensorrt as trt  # noqa: PLC0415 - as above

        kind = self._engine.get_tensor_dtype(name)
        try:
            return np.dtype(trt.nptype(kind))
        except TypeError as error:
            raise RunFailed(f"numpy has no {kind}, so {name!r} cannot be compared: declare it FP32") from error


class _Place:
    """Memory of one tensor on the device, and on the host where copies do not have to wait for the CPU."""

    def __init__(self, cuda: Any, size: int) -> None:
        self.size, self.used, self.on_host = size, size, False
        self.device = int(_check(cuda, cuda.cudaMalloc(size)))
        try:
            self.host = int(_check(cuda, cuda.cudaMallocHost(size)))
        except RunFailed:
            cuda.cudaFree(self.device)
            raise

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
        """The host's memory as an array; not a copy."""
        if not math.prod(shape):
            return np.empty(shape, dtype)
        content = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(self.host)
        return np.frombuffer(memoryview(content), dtype).reshape(shape)

    def free(self, cuda: Any) -> None:
        cuda.cudaFree(self.device)
        cuda.cudaFreeHost(self.host)


def _is_within(shape: tuple[int, ...], smallest: Any, _best: Any, largest: Any) -> bool:
    return len(shape) == len(largest) and all(
        low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
    )


def _check(cuda: Any, result: tuple[Any, ...]) -> Any:
    """What a call of the CUDA runtime gave.

    Raises:
        RunFailed: the call failed.
    """
    status, *values = result
    if status != cuda.cudaError_t.cudaSuccess:
        raise RunFailed(f"CUDA reports {status.name}")
    return values[0] if values else None
