"""Models in this process, without a server: the limits of what any server can reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict
from tritonclient.grpc import model_config_pb2

from plansmith_build.engines.cuda_libraries import load_cuda_libraries
from plansmith_build.repository.linting.context import backend_of
from plansmith_perf.errors import PerfError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from plansmith_server.backends.config import ModelConfig

__all__ = ["Compute", "EngineKind", "EngineSpec", "load_engine", "packages_of", "spec_of"]

EngineKind = Literal["onnxruntime", "openvino", "served", "cuda", "tensorrt"]

Compute = Callable[[Mapping[str, "NDArray[Any]"]], "list[NDArray[Any]]"]
"""Takes the inputs by name and gives the outputs in the model's order."""

_PROVIDERS = {
    "onnxruntime": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
_SERVED = {
    "onnxruntime": "plansmith_server.backends.onnxruntime.engine:OnnxRuntimeEngine",
    "openvino": "plansmith_server.backends.openvino.engine:OpenVinoEngine",
}
_PACKAGES = {"openvino": ("openvino",), "served": ("openvino",)}


class EngineSpec(BaseModel):
    """What is loaded.

    Attributes:
        kind: by what; "served" is plansmith's own backend with the configuration that is served.
        file: the portable ONNX file.
        outputs: their names, in the model's order.
        config: of "served", as JSON of `inference.ModelConfig`.
    """

    model_config = ConfigDict(frozen=True)

    kind: EngineKind
    file: str
    outputs: tuple[str, ...]
    config: str = ""


def spec_of(kind: EngineKind, *, file: Path, outputs: Sequence[str], served: Any) -> EngineSpec:
    """The specification of an engine."""
    if kind != "served":
        return EngineSpec(kind=kind, file=str(file), outputs=tuple(outputs))
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(served)
    # What Triton fills in where a configuration leaves it out.
    config.name = served.name or file.parent.parent.name
    config.backend = backend_of(served)
    text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return EngineSpec(kind=kind, file=str(file), outputs=tuple(outputs), config=text)


def load_engine(spec: EngineSpec) -> Compute:
    """Load a model; every core is its own.

    Raises:
        PerfError: it cannot be loaded; the message says why.
    """
    try:
        if spec.kind == "served":
            return _load_served(spec)
        if spec.kind == "openvino":
            return _load_openvino(spec)
        return _load_onnxruntime(spec)
    except PerfError:
        raise
    except Exception as error:
        # The runtimes have exceptions of their own below RuntimeError and Exception.
        raise PerfError(f"the model cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def packages_of(engine: str) -> dict[str, str]:
    """The versions of what computes, for an `EngineKind` or the backend of that name."""
    import onnxruntime  # noqa: PLC0415 - as below

    # The package that brings it has another name where it can use a GPU.
    versions = {"onnxruntime": onnxruntime.__version__} if engine != "openvino" else {}
    return versions | {name: version(name) for name in _PACKAGES.get(engine, ())}


def _load_onnxruntime(spec: EngineSpec) -> Compute:
    import onnxruntime  # noqa: PLC0415 - a process loads only the runtime that it measures

    providers = list(_PROVIDERS[spec.kind])
    if spec.kind != "onnxruntime":
        load_cuda_libraries()
    session = onnxruntime.InferenceSession(spec.file, providers=providers)
    if session.get_providers()[0] != providers[0]:
        raise PerfError(f"{providers[0]} did not start")
    names = list(spec.outputs)

    def compute(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(names, inputs)
        return outputs

    return compute


def _load_openvino(spec: EngineSpec) -> Compute:
    import openvino  # noqa: PLC0415

    # On a CPU with AMX it would compute in bfloat16 otherwise.
    compiled = openvino.Core().compile_model(spec.file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    ports = [compiled.output(name) for name in spec.outputs]

    def compute(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        results = request.infer(dict(inputs), share_inputs=True)
        return [np.array(results[port]) for port in ports]

    return compute


def _for_one_caller(config: ModelConfig) -> dict[str, str]:
    """The threads that the configuration gives to all its instances together are those of the one, in one stream."""
    parameters = {name: value for name, value in config.parameters.items() if name != "NUM_STREAMS"}
    # ONNX Runtime's are for each instance, OpenVINO's for all of them.
    if parameters.get("intra_op_thread_count", "0") != "0":
        parameters["intra_op_thread_count"] = str(int(parameters["intra_op_thread_count"]) * config.instance_count)
    return parameters


def _load_served(spec: EngineSpec) -> Compute:
    from plansmith_server.backends.config import ModelConfig  # noqa: PLC0415
    from plansmith_server.backends.engine import Instance  # noqa: PLC0415

    document = json.loads(spec.config)
    config = ModelConfig.from_dict(document)
    if document.get("backend") not in _SERVED:
        raise PerfError(f"the backend {document.get('backend')!r} runs in a server only")
    file = Path(spec.file)
    alone = replace(
        config, instance_count=1, model_file=config.model_file or file.name, parameters=_for_one_caller(config)
    )
    engine = resolve_name(_SERVED[document["backend"]])(Instance(alone, file.parent, "CPU", 0))

    def compute(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return list(engine.run(spec.outputs, inputs))

    return compute
