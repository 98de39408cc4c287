"""Operations to HTTP requests of the Open Inference Protocol, and the replies to answers.

Tensors travel as binary where the server speaks the binary tensor data extension: a JSON header whose length stands in
`Inference-Header-Content-Length`, then each tensor's bytes. Other servers are sent JSON. Either is read, whatever was
asked for. Servers made with pydantic (KServe, MLServer) write `null` for what they do not have: a member that is null
is one that is left out. tritonclient's own codec for this cannot be used: importing tritonclient.http brings gevent
into the process.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.protocol.answers import read_statistics
from plansmith_client.protocol.codecs import array_from_binary, array_from_values, binary_from_array, values_from_array
from plansmith_client.protocol.metadata import (
    ModelConfig,
    ModelMetadata,
    ModelStatus,
    ServerMetadata,
    read_batch_size,
    read_specs,
    read_text,
)
from plansmith_client.protocol.operations import (
    Infer,
    IsModelReady,
    IsServerLive,
    IsServerReady,
    ListCudaSharedMemory,
    ListModelNames,
    ListModels,
    ListSharedMemory,
    LoadModel,
    LogSettings,
    ModelOperation,
    Operation,
    ReadConfigDocument,
    ReadModelConfig,
    ReadModelMetadata,
    ReadServerMetadata,
    ReadStatistics,
    RegisterCudaSharedMemory,
    RegisterSharedMemory,
    TraceSettings,
    UnloadModel,
    UnregisterCudaSharedMemory,
    UnregisterSharedMemory,
)
from plansmith_client.protocol.results import InferResult
from plansmith_client.transports.places import array_from_place, place_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from plansmith_client.protocol.operations import OutputPlace
    from plansmith_client.tensors import TensorSpec

__all__ = [
    "EXCHANGES",
    "HEADER_LENGTH",
    "Exchange",
    "Reply",
    "Request",
    "infer_request",
    "json_document",
    "json_object",
    "json_values",
    "model_path",
]

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header of a request or reply with binary tensors: how long its JSON is."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request: what follows the server's URL, and the parts of its body."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: tuple[bytes | memoryview, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply whose status says success; names of headers in lower case; where outputs were to be written."""

    headers: Mapping[str, str]
    body: bytes
    places: Mapping[str, OutputPlace] = field(default_factory=dict)


class Exchange(NamedTuple):
    """How one kind of operation travels.

    Attributes:
        request: makes the request from the operation.
        answer: reads the reply; raises ProtocolError, or one of Python's errors, where it is malformed.
    """

    request: Callable[[Any], Request]
    answer: Callable[[Reply], Any]


def infer_request(operation: Infer, *, binary: bool) -> Request:
    """The request of an inference.

    Args:
        operation: what to send.
        binary: whether the server speaks the binary tensor data extension.

    Raises:
        InvalidInput: the tensors cannot be written as JSON, and the server takes nothing else.
    """
    header: dict[str, Any] = {"inputs": []}
    if operation.request_id:
        header["id"] = operation.request_id
    parameters = dict(operation.parameters)
    blobs: list[bytes | memoryview] = []
    for tensor in operation.inputs:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        if tensor.place is not None:
            described["parameters"] = place_parameters(tensor.place)
        elif binary:
            blob = binary_from_array(tensor.array)
            blobs.append(blob)
            described["parameters"] = {"binary_data_size": len(blob)}
        else:
            described["data"] = json_values(operation, tensor.name, tensor.array)
        header["inputs"].append(described)
    if operation.outputs is not None:
        header["outputs"] = [_wish(operation, name, binary=binary) for name in operation.outputs]
    elif binary:
        parameters["binary_data_output"] = True
    if parameters:
        header["parameters"] = parameters
    encoded = json_document(operation, header)
    headers = {"Content-Type": "application/json"}
    if binary:
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(encoded))}
    return Request("POST", f"{model_path(operation)}/infer", headers, (encoded, *blobs))


def _wish(operation: Infer, name: str, *, binary: bool) -> dict[str, Any]:
    wished: dict[str, Any] = {"binary_data": True} if binary else {}
    if name in operation.places:
        wished = dict(place_parameters(operation.places[name].place))
    elif operation.classes:
        wished["classification"] = operation.classes
    return {"name": name, "parameters": wished} if wished else {"name": name}


def json_document(operation: Infer, header: dict[str, Any]) -> bytes:
    """A document as it travels.

    Raises:
        InvalidInput: a parameter of the request is not a number of JSON.
    """
    try:
        return json.dumps(header, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidInput(
            f"Model {operation.name!r}: a parameter is NaN or infinite, expected a finite number over HTTP"
        ) from error


def json_values(operation: Infer, name: str, array: np.ndarray[Any, Any]) -> list[Any]:
    """The elements of an input as JSON has them.

    Raises:
        InvalidInput: JSON cannot carry them.
    """
    try:
        return values_from_array(array)
    except InvalidInput as error:
        raise InvalidInput(f"Model {operation.name!r}, input {name!r}: {error}") from error


def _infer_result(reply: Reply) -> InferResult:
    length = _header_length(reply)
    header = json_object(reply.body if length is None else reply.body[:length])
    blobs = memoryview(reply.body)[len(reply.body) if length is None else length :]
    outputs: dict[str, np.ndarray[Any, Any]] = {}
    for output in header["outputs"]:
        name, datatype, shape = read_text(output["name"]), read_text(output["datatype"]), output["shape"]
        if name in outputs:
            raise ProtocolError(f"the output {name!r} came twice")
        size = output.get("parameters", {}).get("binary_data_size")
        if name in reply.places and size is None and "data" not in output:
            # Nothing else tells that it was written there.
            outputs[name] = array_from_place(reply.places[name], datatype, shape)
        elif size is None:
            outputs[name] = array_from_values(output["data"], datatype, shape)
        elif not 0 <= size <= len(blobs):
            raise ProtocolError(f"output {name!r} should have {size} bytes, {len(blobs)} came")
        else:
            outputs[name] = array_from_binary(blobs[:size], datatype, shape)
            blobs = blobs[size:]
    if len(blobs):
        raise ProtocolError(f"{len(blobs)} bytes came that belong to no output")
    return InferResult(
        outputs,
        model_name=read_text(header["model_name"]),
        model_version=read_text(header.get("model_version", "")),
        request_id=read_text(header.get("id", "")),
        parameters=header.get("parameters", {}),
    )


def _header_length(reply: Reply) -> int | None:
    stated = reply.headers.get(HEADER_LENGTH.lower())
    if stated is None:
        return None
    if not (stated.isascii() and stated.isdigit() and int(stated) <= len(reply.body)):
        raise ProtocolError(f"the header should have {stated} bytes, {len(reply.body)} came")
    return int(stated)


def _parsed(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=_stated)


def _stated(members: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in members if value is not None}


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, without its members that are null.

    Raises:
        ProtocolError: it is something else; ValueError if it is not JSON.
    """
    parsed = _parsed(body)
    if not isinstance(parsed, dict):
        raise ProtocolError(f"expected a JSON object, got {type(parsed).__name__}")
    return parsed


def _strings(answer: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(read_text(value) for value in answer.get(name, ()) if value is not None)


def _server_metadata(reply: Reply) -> ServerMetadata:
    answer = json_object(reply.body)
    version = read_text(answer.get("version", ""))
    return ServerMetadata(read_text(answer["name"]), version, _strings(answer, "extensions"))


def _models(reply: Reply) -> tuple[ModelStatus, ...]:
    keys = ("version", "state", "reason")
    return tuple(
        ModelStatus(read_text(model["name"]), *(read_text(model.get(key, "")) for key in keys))
        for model in _parsed(reply.body)
    )


def _model_names(reply: Reply) -> tuple[str, ...]:
    return _strings(json_object(reply.body), "models")


def _specs(tensors: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return read_specs(
        (tensor["name"], tensor["datatype"], (-1 if size is None else size for size in tensor["shape"]))
        for tensor in tensors
    )


def _model_metadata(reply: Reply) -> ModelMetadata:
    answer = json_object(reply.body)
    return ModelMetadata(
        read_text(answer["name"]),
        _strings(answer, "versions"),
        read_text(answer.get("platform", "")),
        _specs(answer.get("inputs", ())),
        _specs(answer.get("outputs", ())),
    )


def _model_config(reply: Reply) -> ModelConfig:
    answer = json_object(reply.body)
    optional = frozenset(read_text(tensor["name"]) for tensor in answer.get("input", ()) if tensor.get("optional"))
    decoupled = answer.get("model_transaction_policy", {}).get("decoupled", False) is True
    batching = answer.get("dynamic_batching", {})
    policies = (batching.get("default_queue_policy", {}), *batching.get("priority_queue_policy", {}).values())
    queue_timeout = any(policy.get("allow_timeout_override") is True for policy in policies)
    return ModelConfig(read_batch_size(answer.get("max_batch_size", 0)), optional, decoupled, queue_timeout)


def _log_request(operation: LogSettings) -> Request:
    return _post("/v2/logging", dict(operation.changes)) if operation.changes else Request("GET", "/v2/logging", {})


def _trace_request(operation: TraceSettings) -> Request:
    path = f"{model_path(operation)}/trace/setting" if operation.name else "/v2/trace/setting"
    if not operation.changes:
        return Request("GET", path, {})
    return _post(path, {name: _trace_value(value) for name, value in operation.changes.items()})


def _trace_value(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_trace_value(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _trace_settings(reply: Reply) -> dict[str, Any]:
    # One value may come bare; over gRPC each setting is a list.
    return {name: value if isinstance(value, list) else [value] for name, value in json_object(reply.body).items()}


def _statistics_request(operation: ReadStatistics) -> Request:
    path = f"{model_path(operation)}/stats" if operation.name else "/v2/models/stats"
    return Request("GET", path, {})


def _load_request(operation: LoadModel) -> Request:
    parameters = {"config": operation.config} if operation.config else {}
    parameters |= {f"file:{path}": base64.b64encode(content).decode() for path, content in operation.files.items()}
    return _post(f"/v2/repository/models/{_segment(operation.name)}/load", {"parameters": parameters})


def _unload_request(operation: UnloadModel) -> Request:
    body = {"parameters": {"unload_dependents": operation.dependents}}
    return _post(f"/v2/repository/models/{_segment(operation.name)}/unload", body)


def _region(name: str, act: str, kind: str = "system") -> str:
    return f"/v2/{kind}sharedmemory/region/{_segment(name)}/{act}"


def _region_names(reply: Reply) -> tuple[str, ...]:
    return tuple(read_text(region["name"]) for region in _parsed(reply.body))


def _post(path: str, document: dict[str, Any]) -> Request:
    return Request("POST", path, {"Content-Type": "application/json"}, (json.dumps(document).encode(),))


def model_path(operation: ModelOperation[Any]) -> str:
    """Where the server has what is about a model, or a version of it.

    Raises:
        InvalidInput: the name cannot be sent.
    """
    path = f"/v2/models/{_segment(operation.name)}"
    return f"{path}/versions/{_segment(operation.version)}" if operation.version else path


def _segment(name: str) -> str:
    if name in (".", ".."):
        # Quoted or not, proxies and servers take it for a step in the path.
        raise InvalidInput(f"{name!r} is not a name that can be sent over HTTP: use the name of a model")
    return quote(name, safe="")


def _get(path: str) -> Callable[[Any], Request]:
    return lambda _: Request("GET", path, {})


def _get_of_model(suffix: str) -> Callable[[ModelOperation[Any]], Request]:
    return lambda operation: Request("GET", model_path(operation) + suffix, {})


def _yes(_: Reply) -> bool:
    # Readiness is the status alone: Triton sends no body, others send one of several forms.
    return True


EXCHANGES: Mapping[type[Operation[Any]], Exchange] = {
    IsServerLive: Exchange(_get("/v2/health/live"), _yes),
    IsServerReady: Exchange(_get("/v2/health/ready"), _yes),
    IsModelReady: Exchange(_get_of_model("/ready"), _yes),
    ReadServerMetadata: Exchange(_get("/v2"), _server_metadata),
    ListModels: Exchange(lambda _: _post("/v2/repository/index", {}), _models),
    ListModelNames: Exchange(_get("/v2/models"), _model_names),
    ReadModelMetadata: Exchange(_get_of_model(""), _model_metadata),
    ReadModelConfig: Exchange(_get_of_model("/config"), _model_config),
    ReadConfigDocument: Exchange(_get_of_model("/config"), lambda reply: json_object(reply.body)),
    ReadStatistics: Exchange(_statistics_request, lambda reply: read_statistics(json_object(reply.body))),
    LoadModel: Exchange(_load_request, _yes),
    UnloadModel: Exchange(_unload_request, _yes),
    TraceSettings: Exchange(_trace_request, _trace_settings),
    LogSettings: Exchange(_log_request, lambda reply: json_object(reply.body)),
    RegisterSharedMemory: Exchange(
        lambda operation: _post(
            _region(operation.name, "register"), {"key": operation.key, "offset": 0, "byte_size": operation.size}
        ),
        _yes,
    ),
    UnregisterSharedMemory: Exchange(lambda operation: _post(_region(operation.name, "unregister"), {}), _yes),
    RegisterCudaSharedMemory: Exchange(
        lambda operation: _post(
            _region(operation.name, "register", "cuda"),
            {
                "raw_handle": {"b64": base64.b64encode(operation.handle).decode()},
                "device_id": operation.device,
                "byte_size": operation.size,
            },
        ),
        _yes,
    ),
    UnregisterCudaSharedMemory: Exchange(
        lambda operation: _post(_region(operation.name, "unregister", "cuda"), {}), _yes
    ),
    ListCudaSharedMemory: Exchange(_get("/v2/cudasharedmemory/status"), _region_names),
    ListSharedMemory: Exchange(_get("/v2/systemsharedmemory/status"), _region_names),
    Infer: Exchange(lambda operation: infer_request(operation, binary=True), _infer_result),
}
