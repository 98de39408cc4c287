"""Operations to the messages of Triton's gRPC service, and their replies to answers.

The messages are NVIDIA's generated ones, as tritonclient ships them (`grpc_service.proto`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import service_pb2

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.protocol.answers import check_answer, check_result
from plansmith_client.protocol.codecs import array_from_binary, array_from_values, binary_size, bytes_from_array
from plansmith_client.protocol.metadata import (
    ModelConfig,
    ModelMetadata,
    ModelStatus,
    ServerMetadata,
    read_batch_size,
    read_specs,
)
from plansmith_client.protocol.operations import (
    Infer,
    IsModelReady,
    IsServerLive,
    IsServerReady,
    ListCudaSharedMemory,
    ListModels,
    ListSharedMemory,
    LoadModel,
    LogSettings,
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
from plansmith_client.protocol.statistics import statistics_from_document
from plansmith_client.transports.grpc.proto_documents import document_from_message
from plansmith_client.transports.places import array_from_place, place_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np

    from plansmith_client.protocol.operations import OutputPlace, ParameterValue
    from plansmith_client.tensors import TensorSpec

__all__ = ["RPCS", "Rpc", "read_answer", "stream_request", "stream_result"]

# protobuf's limit is 2 GiB for a whole message; the rest of it takes little.
_MAX_TENSOR_BYTES = 2**31 - 2**20
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rpc:
    """How one kind of operation travels.

    Attributes:
        method: the method of the service.
        request: makes the message from the operation.
        answer: reads the reply; raises ProtocolError, or one of Python's errors, if the reply is malformed.
    """

    method: str
    request: Callable[[Any], Any]
    answer: Callable[[Any], Any]


def _infer_request(operation: Infer) -> Any:
    size = 0
    for tensor in operation.inputs:
        if tensor.place is None:
            size += binary_size(tensor.array)
    if size > _MAX_TENSOR_BYTES:
        raise InvalidInput(
            f"Model {operation.name!r}: given inputs of {size} bytes, expected less than 2 GiB, the most that one gRPC "
            "message can carry; send them in parts or over HTTP"
        )
    request = service_pb2.ModelInferRequest(
        model_name=operation.name, model_version=operation.version, id=operation.request_id
    )
    for tensor in operation.inputs:
        described = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if tensor.place is None:
            request.raw_input_contents.append(bytes_from_array(tensor.array))
        else:
            for name, where in place_parameters(tensor.place).items():
                _set_parameter(described.parameters[name], where)
    for name in operation.outputs or ():
        _add_wish(request, operation, name)
    for name, value in operation.parameters.items():
        _set_parameter(request.parameters[name], value)
    return request


def _add_wish(request: Any, operation: Infer, name: str) -> None:
    wish = request.outputs.add(name=name)
    if operation.classes:
        wish.parameters["classification"].int64_param = operation.classes
    if name in operation.places:
        for key, where in place_parameters(operation.places[name].place).items():
            _set_parameter(wish.parameters[key], where)


def _set_parameter(parameter: Any, value: ParameterValue) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif value > _MAX_INT64:
        parameter.uint64_param = value
    else:
        parameter.int64_param = value


def read_answer(operation: Operation[Any], reply: Any) -> Any:
    """The answer to an operation in a reply.

    Raises:
        ProtocolError: or one of Python's errors: it is malformed, or the answer to another question.
    """
    if isinstance(operation, Infer):
        answer: Any = _infer_result(reply, operation.places)
    else:
        answer = RPCS[type(operation)].answer(reply)
    check_answer(operation, answer)
    return answer


def _infer_result(reply: Any, places: Mapping[str, OutputPlace]) -> InferResult:
    # Slices: protobuf makes what a message has anew for each look at it, and is slow to iterate over.
    raw, described = reply.raw_output_contents[:], reply.outputs[:]
    if raw and len(raw) != len(described):
        raise ProtocolError(f"{len(described)} outputs came with the data of {len(raw)}")
    outputs: dict[str, np.ndarray[Any, Any]] = {}
    for index, output in enumerate(described):
        name = output.name
        if name in outputs:
            raise ProtocolError(f"the output {name!r} came twice")
        wanted = places.get(name)
        if wanted is not None and not (raw and raw[index]):
            # Nothing else tells that it was written there.
            outputs[name] = array_from_place(wanted, output.datatype, output.shape)
        elif raw:
            outputs[name] = array_from_binary(raw[index], output.datatype, output.shape[:])
        else:
            outputs[name] = array_from_values(_typed_values(output), output.datatype, output.shape)
    return InferResult(
        outputs,
        model_name=reply.model_name,
        model_version=reply.model_version,
        request_id=reply.id,
        parameters=_parameters(reply.parameters) if reply.parameters else None,
    )


def stream_request(operation: Infer) -> Any:
    """The message that opens a stream; the server is asked to mark the last response."""
    request = _infer_request(operation)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def stream_result(operation: Infer, reply: Any) -> InferResult | None:
    """The result in one response of a stream; None for an empty one that only says that the stream has ended."""
    response = reply.infer_response
    if not response.outputs and _parameters(response.parameters).get("triton_final_response"):
        return None
    result = _infer_result(response, {})
    check_result(operation, result)
    result.parameters.pop("triton_final_response", None)
    result.request_id = result.request_id or operation.request_id
    return result


def _typed_values(output: Any) -> list[Any]:
    # Which one of the typed fields is filled follows from the datatype.
    filled = output.contents.ListFields()
    if len(filled) > 1:
        raise ProtocolError(f"the output {output.name!r} has values of several types")
    return list(filled[0][1]) if filled else []


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, kind)
        for name, value in parameters.items()
        if (kind := value.WhichOneof("parameter_choice")) is not None
    }


def _specs(tensors: Iterable[Any]) -> tuple[TensorSpec, ...]:
    return read_specs((tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


def _model_metadata(reply: Any) -> ModelMetadata:
    return ModelMetadata(reply.name, tuple(reply.versions), reply.platform, _specs(reply.inputs), _specs(reply.outputs))


def _state(state: str) -> str:
    # MLServer sends the name of a Python enumeration's member: "State.READY".
    return state.rpartition(".")[2]


def _model_config(reply: Any) -> ModelConfig:
    optional = frozenset(tensor.name for tensor in reply.config.input if tensor.optional)
    decoupled = reply.config.model_transaction_policy.decoupled
    batching = reply.config.dynamic_batching
    policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    queue_timeout = any(policy.allow_timeout_override for policy in policies)
    return ModelConfig(read_batch_size(reply.config.max_batch_size), optional, decoupled, queue_timeout)


def _load_request(operation: LoadModel) -> Any:
    request = service_pb2.RepositoryModelLoadRequest(model_name=operation.name)
    if operation.config:
        request.parameters["config"].string_param = operation.config
    for path, content in operation.files.items():
        request.parameters[f"file:{path}"].bytes_param = content
    return request


def _unload_request(operation: UnloadModel) -> Any:
    request = service_pb2.RepositoryModelUnloadRequest(model_name=operation.name)
    request.parameters["unload_dependents"].bool_param = operation.dependents
    return request


def _trace_request(operation: TraceSettings) -> Any:
    request = service_pb2.TraceSettingRequest(model_name=operation.name)
    for name, value in operation.changes.items():
        # A setting without a value goes back to its default.
        values = () if value is None else value if isinstance(value, (list, tuple)) else (value,)
        request.settings[name].value.extend(map(_setting, values))
    return request


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _log_request(operation: LogSettings) -> Any:
    request = service_pb2.LogSettingsRequest()
    for name, value in operation.changes.items():
        kind = "bool_param" if isinstance(value, bool) else "uint32_param" if isinstance(value, int) else "string_param"
        setattr(request.settings[name], kind, value)
    return request


def _log_settings(reply: Any) -> dict[str, Any]:
    return {
        name: getattr(value, kind)
        for name, value in reply.settings.items()
        if (kind := value.WhichOneof("parameter_choice")) is not None
    }


def _done(_: Any) -> bool:
    return True


RPCS: Mapping[type[Operation[Any]], Rpc] = {
    IsServerLive: Rpc("ServerLive", lambda _: service_pb2.ServerLiveRequest(), lambda reply: reply.live),
    IsServerReady: Rpc("ServerReady", lambda _: service_pb2.ServerReadyRequest(), lambda reply: reply.ready),
    IsModelReady: Rpc(
        "ModelReady",
        lambda operation: service_pb2.ModelReadyRequest(name=operation.name, version=operation.version),
        lambda reply: reply.ready,
    ),
    ReadServerMetadata: Rpc(
        "ServerMetadata",
        lambda _: service_pb2.ServerMetadataRequest(),
        lambda reply: ServerMetadata(reply.name, reply.version, tuple(reply.extensions)),
    ),
    ListModels: Rpc(
        "RepositoryIndex",
        lambda _: service_pb2.RepositoryIndexRequest(),
        lambda reply: tuple(
            ModelStatus(model.name, model.version, _state(model.state), model.reason) for model in reply.models
        ),
    ),
    ReadModelMetadata: Rpc(
        "ModelMetadata",
        lambda operation: service_pb2.ModelMetadataRequest(name=operation.name, version=operation.version),
        _model_metadata,
    ),
    ReadModelConfig: Rpc(
        "ModelConfig",
        lambda operation: service_pb2.ModelConfigRequest(name=operation.name, version=operation.version),
        _model_config,
    ),
    ReadConfigDocument: Rpc(
        "ModelConfig",
        lambda operation: service_pb2.ModelConfigRequest(name=operation.name, version=operation.version),
        lambda reply: document_from_message(reply.config),
    ),
    ReadStatistics: Rpc(
        "ModelStatistics",
        lambda operation: service_pb2.ModelStatisticsRequest(name=operation.name, version=operation.version),
        lambda reply: statistics_from_document(document_from_message(reply)),
    ),
    LoadModel: Rpc("RepositoryModelLoad", _load_request, _done),
    UnloadModel: Rpc("RepositoryModelUnload", _unload_request, _done),
    TraceSettings: Rpc(
        "TraceSetting",
        _trace_request,
        lambda reply: {name: list(setting.value) for name, setting in reply.settings.items()},
    ),
    LogSettings: Rpc("LogSettings", _log_request, _log_settings),
    RegisterSharedMemory: Rpc(
        "SystemSharedMemoryRegister",
        lambda operation: service_pb2.SystemSharedMemoryRegisterRequest(
            name=operation.name, key=operation.key, offset=0, byte_size=operation.size
        ),
        _done,
    ),
    UnregisterSharedMemory: Rpc(
        "SystemSharedMemoryUnregister",
        lambda operation: service_pb2.SystemSharedMemoryUnregisterRequest(name=operation.name),
        _done,
    ),
    RegisterCudaSharedMemory: Rpc(
        "CudaSharedMemoryRegister",
        lambda operation: service_pb2.CudaSharedMemoryRegisterRequest(
            name=operation.name, raw_handle=operation.handle, device_id=operation.device, byte_size=operation.size
        ),
        _done,
    ),
    UnregisterCudaSharedMemory: Rpc(
        "CudaSharedMemoryUnregister",
        lambda operation: service_pb2.CudaSharedMemoryUnregisterRequest(name=operation.name),
        _done,
    ),
    ListCudaSharedMemory: Rpc(
        "CudaSharedMemoryStatus",
        lambda _: service_pb2.CudaSharedMemoryStatusRequest(),
        lambda reply: tuple(reply.regions),
    ),
    ListSharedMemory: Rpc(
        "SystemSharedMemoryStatus",
        lambda _: service_pb2.SystemSharedMemoryStatusRequest(),
        lambda reply: tuple(reply.regions),
    ),
    Infer: Rpc("ModelInfer", _infer_request, lambda reply: _infer_result(reply, {})),
}
