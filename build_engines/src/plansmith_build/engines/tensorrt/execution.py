"""Running a plan on the GPU, to judge and time it like every other candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.engines.onnxruntime import RunFailed
from plansmith_build.engines.tensorrt.plans import on_device

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["PlanSession"]


class PlanSession:
    """A loaded plan.

    Args:
        path: the plan.
        device: the number of the GPU.

    Raises:
        RunFailed: it does not load.
    """

    def __init__(self, path: Path, *, device: int) -> None:
        import tensorrt as trt  # noqa: PLC0415 - gigabytes that only GPU machines have

        self.description = f"TensorRT {trt.__version__} on GPU {device}"
        self._device = device
        with on_device(device):
            self._runtime = runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            engine = runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise RunFailed("TensorRT does not load the plan")
            context = engine.create_execution_context()
        self._engine, self._context = engine, context

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        """The outputs by name.

        Raises:
            RunFailed: TensorRT or CUDA reports an error, or an output's shape depends on the data.
        """
        import tensorrt as trt  # noqa: PLC0415 - as above
        from cuda.bindings import runtime as cuda  # noqa: PLC0415

        engine, context = self._engine, self._context
        outputs: Arrays = {}
        allocated: list[int] = []
        with on_device(self._device):
            try:
                names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
                given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
                for name, array in given.items():
                    if not context.set_input_shape(name, array.shape):
                        raise RunFailed(f"{list(array.shape)} of input {name!r} is not within the optimization profile")
                    if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
                        context.set_tensor_address(name, array.ctypes.data)
                        continue
                    pointer = _allocate(cuda, array.nbytes, allocated)
                    to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
                    _check(cuda, cuda.cudaMemcpy(pointer, array.ctypes.data, array.nbytes, to_device))
                    context.set_tensor_address(name, pointer)
                pointers = {}
                for name in names:
                    if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                        shape = tuple(context.get_tensor_shape(name))
                        if -1 in shape:
                            raise RunFailed(f"the shape of output {name!r} depends on the data")
                        outputs[name] = np.empty(shape, dtype=_numpy_type(engine.get_tensor_dtype(name)))
                        pointers[name] = _allocate(cuda, outputs[name].nbytes, allocated)
                        context.set_tensor_address(name, pointers[name])
                stream = _check(cuda, cuda.cudaStreamCreate())
                try:
                    done = context.execute_async_v3(int(stream))
                    _check(cuda, cuda.cudaStreamSynchronize(stream))
                finally:
                    cuda.cudaStreamDestroy(stream)
                if not done:
                    raise RunFailed("TensorRT could not run the plan; its log on standard error says why")
                to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
                for name, pointer in pointers.items():
                    array = outputs[name]
                    _check(cuda, cuda.cudaMemcpy(array.ctypes.data, pointer, array.nbytes, to_host))
            finally:
                for pointer in allocated:
                    cuda.cudaFree(pointer)
        return outputs


def _numpy_type(kind: Any) -> Any:
    import tensorrt as trt  # noqa: PLC0415 - as above

    try:
        return trt.nptype(kind)
    except TypeError as error:
        raise RunFailed(f"numpy has no {kind}, so the output cannot be compared: declare it FP32") from error


def _allocate(cuda: Any, size: int, allocated: list[int]) -> int:
    pointer = int(_check(cuda, cuda.cudaMalloc(max(1, size))))
    allocated.append(pointer)
    return pointer


def _check(cuda: Any, result: tuple[Any, ...]) -> Any:
    """What a call of the CUDA runtime gave.

    Raises:
        RunFailed: the call failed.
    """
    status, *values = result
    if status != cuda.cudaError_t.cudaSuccess:
        raise RunFailed(f"CUDA reports {status.name}")
    return values[0] if values else None
