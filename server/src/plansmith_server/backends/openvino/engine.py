"""ONNX and OpenVINO models on OpenVINO."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from plansmith_server.backends.model_file import find_model_file
from plansmith_server.backends.onnx_signature import read_onnx_signature
from plansmith_server.backends.openvino.settings import OpenVinoSettings
from plansmith_server.backends.openvino.tensors import ELEMENT_TYPES, data_type_name, read_output, to_input
from plansmith_server.backends.rows import UNKNOWN_ROWS, Rows, Shape, trace_rows
from plansmith_server.backends.signature import Signature, TensorInfo
from plansmith_server.errors import ModelError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_server.backends.config import ModelConfig
    from plansmith_server.backends.engine import Instance

__all__ = ["OpenVinoEngine", "read_signature"]

logger = logging.getLogger(__name__)


class OpenVinoEngine:
    """A model compiled by OpenVINO for the CPU.

    Raises:
        ModelError: the file or the configuration cannot be used.
    """

    def __init__(self, instance: Instance) -> None:
        config = instance.config
        if instance.kind != "CPU":
            raise ModelError("the backend openvino runs on the CPU only: set KIND_CPU in the instance_group")
        settings = OpenVinoSettings.from_config(config)
        path = find_model_file(instance.folder, config.model_file)
        core = openvino.Core()
        if settings.extension:
            core.add_extension(settings.extension)
        self.signature = _read(core, path)
        try:
            model = core.read_model(path)
            _reshape(model, config, settings)
            model = _convert(model, config, self.signature)
            compiled = core.compile_model(model, "CPU", dict(settings.properties))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load {path.name}: {_last_lines(error)}") from error
        logger.info(
            "model %r: OpenVINO %s on the CPU, computes in %s, %d threads",
            config.name,
            openvino.__version__.partition("-")[0],
            compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
            settings.properties["INFERENCE_NUM_THREADS"],
        )
        types = {tensor.name: tensor.data_type for tensor in (*config.run_inputs, *config.run_outputs)}
        types |= {
            tensor.name: tensor.data_type for tensor in self.signature.inputs if tensor.name in config.control_inputs
        }
        self._request = compiled.create_infer_request()
        self._inputs = [
            (name, index, types.get(name, ""))
            for index, port in enumerate(compiled.inputs)
            for name in port.get_names() & types.keys()
        ]
        self._outputs = {
            name: (index, types[name])
            for index, port in enumerate(compiled.outputs)
            for name in port.get_names() & types.keys()
        }
        self._batch = config.max_batch_size if settings.fixed_batch else 0
        self._pad = settings.pad_batch

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.generic]]:
        """Compute `outputs` of `inputs`; bfloat16 as its bits in uint16.

        Raises:
            RequestError: the model takes only batches of max_batch_size rows, and this one has another size.
        """
        rows = len(next(iter(inputs.values()))) if self._batch else 0
        if rows != self._batch:
            inputs = self._fill_up(inputs, rows)
        request = self._request
        for name, index, data_type in self._inputs:
            request.set_input_tensor(index, to_input(inputs[name], data_type))
        # Not infer(): it would create an array for every output, requested or not.
        request.start_async()
        request.wait()
        arrays = []
        for name in outputs:
            index, data_type = self._outputs[name]
            arrays.append(read_output(request.get_output_tensor(index), data_type))
        return [array[:rows] for array in arrays] if rows != self._batch else arrays

    def close(self) -> None:
        """Free the model."""
        del self._request

    def _fill_up(self, inputs: Mapping[str, NDArray[Any]], rows: int) -> Mapping[str, NDArray[Any]]:
        if not self._pad:
            raise RequestError(
                f"expected a batch of exactly {self._batch} rows, got {rows}: set ENABLE_BATCH_PADDING to pad it, or"
                " remove SKIP_OV_DYNAMIC_BATCHSIZE to allow any number of rows"
            )
        # Repeated rows, because zeros are not a valid input of every model.
        return {name: array[np.minimum(np.arange(self._batch), rows - 1)] for name, array in inputs.items()}


def read_signature(folder: Path, model_file: str) -> Signature:
    """Read what the model in the version folder `folder` takes and gives."""
    return _read(openvino.Core(), find_model_file(folder, model_file))


def _read(core: Any, path: Path) -> Signature:
    if path.suffix == ".onnx":
        signature = read_onnx_signature(path)
        unknown = [
            tensor for tensor in (*signature.inputs, *signature.outputs) if tensor.data_type not in ELEMENT_TYPES
        ]
        if unknown:
            raise ModelError(f"{unknown[0].name!r} is text, which OpenVINO cannot serve: use the backend onnxruntime")
        # OpenVINO treats every initializer as a constant, even if it is an input.
        return replace(signature, optional_inputs=())
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {path.name}: {_last_lines(error)}") from error
    signature = Signature(
        inputs=tuple(_infos(model.inputs)),
        optional_inputs=(),
        outputs=tuple(_infos(model.outputs)),
        fixed_batch=all(_says_batch(port) for port in model.inputs),
    )
    if not signature.fixed_batch and not signature.first_dimensions_are_dynamic:
        return signature
    return replace(signature, rows=_trace_rows(model))


def _infos(ports: Iterable[Any]) -> Iterable[TensorInfo]:
    for port in ports:
        name = port.get_any_name()
        data_type = data_type_name(port.get_element_type())
        if data_type is None:
            raise ModelError(f"{name!r} has a type that Triton lacks: {port.get_element_type()}")
        dims = _dims(port)
        yield TensorInfo(name=name, data_type=data_type, shape=None if dims is None else tuple(dims))


def _says_batch(port: Any) -> bool:
    """Whether the layout of an input, such as [N,C,H,W], has the batch in front."""
    layout = openvino.layout_helpers.get_layout(port)
    return bool(openvino.layout_helpers.has_batch(layout) and openvino.layout_helpers.batch_idx(layout) == 0)


def _trace_rows(model: Any) -> Rows:
    """What OpenVINO's own shape inference says; `model` is changed."""
    ports = {port.get_any_name(): port for port in model.inputs}
    shapes = {name: _dims(port) for name, port in ports.items()}
    if not all(shapes.values()):
        return UNKNOWN_ROWS

    def infer(batches: Mapping[str, int]) -> list[Shape] | None:
        try:
            model.reshape(
                {
                    ports[name]: openvino.PartialShape([rows, *(shapes[name] or ())[1:]])
                    for name, rows in batches.items()
                }
            )
        except RuntimeError:
            return None
        return [[dim if dim >= 0 else None for dim in _dims(port) or ()] for port in model.outputs]

    return trace_rows(infer, ports)


def _dims(port: Any) -> list[int] | None:
    """The shape of an input or output, with -1 for any size; None where not even the rank is known."""
    shape = port.get_partial_shape()
    return None if shape.rank.is_dynamic else [dim.get_length() if dim.is_static else -1 for dim in shape]


def _reshape(model: Any, config: ModelConfig, settings: OpenVinoSettings) -> None:
    """Make the batch dimension dynamic or fixed, and set the configured dims, as the parameters say."""
    configured = {tensor.name: tensor.shape for tensor in config.run_inputs}
    shapes = {}
    for port in model.inputs:
        dims = _dims(port)
        if dims is None:
            continue
        batched = config.max_batch_size > 0 and bool(dims)
        name = next(iter(port.get_names() & configured.keys()), None)
        if settings.reshape and name is not None:
            dims = [*dims[: int(batched)], *configured[name]]
        if batched:
            dims[0] = config.max_batch_size if settings.fixed_batch else -1
        shapes[port] = openvino.PartialShape(dims)
    if shapes:
        model.reshape(shapes)


def _convert(model: Any, config: ModelConfig, signature: Signature) -> Any:
    """Have OpenVINO convert between the types of the configuration and those of the model."""
    known = {tensor.name: tensor.data_type for tensor in (*signature.inputs, *signature.outputs)}
    steps = openvino.preprocess.PrePostProcessor(model)
    changed = False
    for tensors, choose in ((config.run_inputs, steps.input), (config.run_outputs, steps.output)):
        for tensor in tensors:
            if tensor.name in known and tensor.data_type != known[tensor.name]:
                choose(tensor.name).tensor().set_element_type(ELEMENT_TYPES[tensor.data_type])
                changed = True
    return steps.build() if changed else model


def _last_lines(error: RuntimeError) -> str:
    """The message of an OpenVINO error, without the source locations that precede it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([line for line in lines if not line.startswith(("Exception from ", "While "))][-3:]) or str(error)
