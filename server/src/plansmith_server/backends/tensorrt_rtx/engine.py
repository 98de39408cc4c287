"""An engine of TensorRT for RTX, loaded and run.

Checked against NVIDIA's own bindings by tests/test_rtx_contract.py, which reads this file: the names of the variables
there say which class each is of. What they do when they are called, a stand-in says that records the calls: no machine
that tests plansmith has a GPU.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.config import parse_switch
from plansmith_server.backends.model_file import find_model_file
from plansmith_server.backends.signature import Signature, TensorInfo
from plansmith_server.backends.tensorrt_rtx.buffers import Buffers, TensorPlace, check
from plansmith_server.backends.tensorrt_rtx.runtime_cache import KernelFile, folder_from
from plansmith_server.backends.tensorrt_rtx.validity import check_validity
from plansmith_server.errors import ModelError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_server.backends.config import ModelConfig
    from plansmith_server.backends.engine import Instance

__all__ = ["RtxEngine"]

logger = logging.getLogger(__name__)

_TYPES = {
    "FLOAT": ("TYPE_FP32", np.float32),
    "HALF": ("TYPE_FP16", np.float16),
    "BF16": ("TYPE_BF16", np.uint16),
    "INT8": ("TYPE_INT8", np.int8),
    "INT32": ("TYPE_INT32", np.int32),
    "INT64": ("TYPE_INT64", np.int64),
    "UINT8": ("TYPE_UINT8", np.uint8),
    "BOOL": ("TYPE_BOOL", np.bool_),
}
_PARAMETERS = ("cuda_graph", "runtime_cache_folder")


class RtxEngine:
    """A loaded engine.

    Raises:
        ModelError: the file or the configuration cannot be used, or the engine does not run on this GPU.
    """

    signature: Signature

    def __init__(self, instance: Instance, trt: Any, cuda: Any) -> None:
        model = instance.config
        _check_parameters(model)
        path = find_model_file(instance.folder, model.model_file, default="model.engine")
        check(cuda, cuda.cudaSetDevice(instance.device))
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        check_validity(path, runtime, trt)
        content = path.read_bytes()
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ModelError(f"TensorRT for RTX cannot load {path.name}; its log above says why")
        gpu = check(cuda, cuda.cudaGetDeviceProperties(instance.device)).name.decode()
        runtime_config = engine.create_runtime_config()
        if parse_switch("cuda_graph", model.parameters.get("cuda_graph", "0")):
            runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        runtime_cache = runtime_config.create_runtime_cache()
        folder = folder_from(model.parameters)
        self._kernels = KernelFile(folder, content, gpu) if folder is not None else None
        warm = self._kernels.load_into(runtime_cache) if self._kernels is not None else False
        runtime_config.set_runtime_cache(runtime_cache)
        context = engine.create_execution_context(runtime_config)
        if context is None:
            raise ModelError(f"the GPU {gpu} has too little memory to run {path.name}")
        self._trt, self._cuda, self._device = trt, cuda, instance.device
        self._runtime, self._engine, self._context, self._cache = runtime, engine, context, runtime_cache
        self._inputs = self._names(trt.TensorIOMode.INPUT)
        self._outputs = self._names(trt.TensorIOMode.OUTPUT)
        self._dtypes = {name: self._type(name)[1] for name in (*self._inputs, *self._outputs)}
        self._profiles = [
            {name: tuple(tuple(s) for s in engine.get_tensor_profile_shape(name, number)) for name in self._inputs}
            for number in range(engine.num_optimization_profiles)
        ]
        self._profile = 0
        self.signature = Signature(
            inputs=tuple(map(self._info, self._inputs)),
            optional_inputs=(),
            outputs=tuple(map(self._info, self._outputs)),
        )
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._buffers = Buffers(cuda)
        self._buffers.allocate(self._places())
        for name, address in self._buffers.addresses.items():
            context.set_tensor_address(name, address)
        self._warm_up()
        logger.info(
            "model %r: TensorRT for RTX %s on GPU %d (%s), kernels %s",
            model.name,
            trt.__version__,
            instance.device,
            gpu,
            "from the runtime cache" if warm else "finished now",
        )

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.generic]]:
        """Compute `outputs` of `inputs`; bfloat16 as its bits in uint16.

        Raises:
            RequestError: a shape is not within the engine's optimization profile, or an output's depends on the data.
            ModelError: CUDA or TensorRT reports an error.
        """
        context, buffers = self._context, self._buffers
        # Held until the copies are done.
        held = {name: np.ascontiguousarray(inputs[name]) for name in self._inputs}
        self._choose_profile({name: array.shape for name, array in held.items()})
        for name, array in held.items():
            self._set_shape(name, array.shape)
            if array.dtype != self._dtypes[name]:
                raise RequestError(f"input {name!r} has to be {self._dtypes[name]}, and is {array.dtype}")
            buffers.put(name, array)
        if not context.execute_async_v3(buffers.stream):
            raise ModelError("TensorRT for RTX could not run the engine; its log says why")
        arrays = []
        for name in outputs:
            shape = tuple(context.get_tensor_shape(name))
            if -1 in shape:
                raise RequestError(f"the shape of output {name!r} depends on the data, which this backend cannot give")
            arrays.append(buffers.get(name, shape, self._dtypes[name]))
        buffers.wait()
        return arrays

    def close(self) -> None:
        """Keep the kernels, and free the engine."""
        if self._kernels is not None:
            self._kernels.save(self._cache)
        self._buffers.close()
        # In this order: each needs the one after it.
        del self._context, self._cache, self._engine, self._runtime

    def _choose_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Use the first profile that takes these shapes.

        Raises:
            RequestError: none does.
        """
        if shapes == self._shapes:
            return
        unfit = [
            next((name for name, shape in shapes.items() if not _is_within(shape, profile[name])), "")
            for profile in self._profiles
        ]
        if "" not in unfit:
            name = unfit[0]
            ranges = " or ".join(f"{list(profile[name][0])} to {list(profile[name][2])}" for profile in self._profiles)
            raise RequestError(
                f"input {name!r} has the shape {list(shapes[name])}, and the engine takes {ranges}: build with "
                "--profile for other shapes"
            )
        self._use_profile(unfit.index(""))

    def _use_profile(self, number: int) -> None:
        if number == self._profile:
            return
        context = self._context
        if not context.set_optimization_profile_async(number, self._buffers.stream):
            raise ModelError(f"TensorRT for RTX did not take its optimization profile {number}; its log says why")
        # Shapes are set anew under each.
        self._profile, self._shapes = number, {}

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if self._shapes.get(name) == shape:
            return
        if not self._context.set_input_shape(name, shape):
            raise RequestError(f"TensorRT for RTX does not take the shape {list(shape)} of input {name!r}")
        self._shapes[name] = shape

    def _warm_up(self) -> None:
        """Run once in the best shapes on zeros: that finishes the kernels, so that no request waits for it."""
        for profile in self._profiles:
            zeros = {name: np.zeros(profile[name][1], self._dtypes[name]) for name in self._inputs}
            self.run(self._outputs, zeros)
        if self._kernels is not None:
            self._kernels.save(self._cache)

    def _names(self, mode: Any) -> tuple[str, ...]:
        engine = self._engine
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        return tuple(name for name in names if engine.get_tensor_mode(name) == mode)

    def _type(self, name: str) -> tuple[str, np.dtype[Any]]:
        engine = self._engine
        kind = engine.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise ModelError(f"{name!r} is of the type {kind}, which Triton has no name for: cast it in the model")
        data_type, dtype = _TYPES[kind]
        return data_type, np.dtype(dtype)

    def _info(self, name: str) -> TensorInfo:
        engine = self._engine
        return TensorInfo(name=name, data_type=self._type(name)[0], shape=tuple(engine.get_tensor_shape(name)))

    def _places(self) -> list[TensorPlace]:
        """How much each tensor takes where every input is as large as it may be."""
        trt, engine, context = self._trt, self._engine, self._context
        sizes = dict.fromkeys((*self._inputs, *self._outputs), 0)
        for number, profile in enumerate(self._profiles):
            self._use_profile(number)
            for name in self._inputs:
                context.set_input_shape(name, profile[name][2])
                sizes[name] = max(sizes[name], math.prod(profile[name][2]) * self._dtypes[name].itemsize)
            for name in self._outputs:
                sizes[name] = max(sizes[name], context.get_max_output_size(name))
        return [
            TensorPlace(
                name=name,
                dtype=self._dtypes[name],
                bytes=size,
                on_host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
            )
            for name, size in sizes.items()
        ]


def _is_within(shape: tuple[int, ...], profile: tuple[tuple[int, ...], ...]) -> bool:
    smallest, _, largest = profile
    return len(shape) == len(largest) and all(
        low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
    )


def _check_parameters(model: ModelConfig) -> None:
    # Those of plansmith are for clients.
    unknown = [key for key in model.parameters if key not in _PARAMETERS and not key.startswith("plansmith_")]
    if unknown:
        logger.warning(
            "model %r: the backend tensorrt_rtx has no parameter %s; it has %s",
            model.name,
            ", ".join(unknown),
            " and ".join(_PARAMETERS),
        )
