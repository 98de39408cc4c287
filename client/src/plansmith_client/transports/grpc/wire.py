"""Operations to the messages of Triton's gRPC service, and their replies to answers.

The messages are NVIDIA's generated ones, as tritonclient ships them (`grpc_service.proto`); those of inferences are
bytes, see `plansmith_client.transports.grpc.inference`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from plansmith_client.protocol.answers import check_answer, check_result, read_statistics
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
from plansmith_client.transports.grpc.inference import infer_request, infer_result, result_from_message
from plansmith_client.transports.grpc.messages import service_pb2
from plansmith_client.transports.grpc.proto_documents import chosen_values, document_from_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from plansmith_client.protocol.results import InferResult
    from plansmith_client.tensors import TensorSpec

__all__ = ["RPCS", "Methods", "Rpc", "open_methods", "read_answer", "stream_request", "stream_result"]

_SERVICE = "/inference.GRPCInferenceService/"

Methods = dict[type[Operation[Any]] | None, Any]


def _named_request(operation: Any) -> Any:
    """The message of an operation that says no more than a name, and a version."""
    said = {name: getattr(operation, name) for name in ("name", "version") if hasattr(operation, name)}
    return getattr(service_pb2, f"{RPCS[type(operation)].method}Request")(**said)


def _done(_: Any) -> bool:
    return True


class Rpc(NamedTuple):
    """How one kind of operation travels.

    Attributes:
        method: the method of the service.
        answer: reads the reply; raises ProtocolError, or one of Python's errors, if the reply is malformed.
        request: makes the message from the operation, or its bytes.
    """

    method: str
    answer: Callable[[Any], Any] = _done
    request: Callable[[Any], Any] = _named_request


def open_methods(channel: Any) -> Methods:
    """What sends each kind of operations over a channel and returns the replies; the key of streams is None.

    All of them at once: registering a method with a channel that has been closed ends the process.
    """
    methods: Methods = {
        kind: channel.unary_unary(
            _SERVICE + rpc.method,
            None if kind is Infer else lambda message: message.SerializeToString(),
            None if kind is Infer else getattr(service_pb2, f"{rpc.method}Response").FromString,
            _registered_method=True,
        )
        for kind, rpc in RPCS.items()
    }
    reply = service_pb2.ModelStreamInferResponse.FromString
    methods[None] = channel.stream_stream(f"{_SERVICE}ModelStreamInfer", None, reply, _registered_method=True)
    return methods


def read_answer(operation: Operation[Any], reply: Any) -> Any:
    """The answer to an operation in a reply.

    Raises:
        ProtocolError: or one of Python's errors: it is malformed, or the answer to another question.
    """
    if isinstance(operation, Infer):
        answer: Any = infer_result(reply, operation.places)
    else:
        answer = RPCS[type(operation)].answer(reply)
    check_answer(operation, answer)
    return answer


def stream_request(operation: Infer) -> bytes:
    """The message that opens a stream; the server is asked to mark the last response."""
    parameters = {**operation.parameters, "triton_enable_empty_final_response": True}
    return infer_request(replace(operation, parameters=parameters))


def stream_result(operation: Infer, reply: Any) -> InferResult | None:
    """The result in one response of a stream; None for an empty one that only says that the stream has ended."""
    result = result_from_message(reply.infer_response)
    if result.parameters.pop("triton_final_response", None) and not result:
        return None
    check_result(operation, result)
    result.request_id = result.request_id or operation.request_id
    return result


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


RPCS: Mapping[type[Operation[Any]], Rpc] = {
    IsServerLive: Rpc("ServerLive", lambda reply: reply.live),
    IsServerReady: Rpc("ServerReady", lambda reply: reply.ready),
    IsModelReady: Rpc("ModelReady", lambda reply: reply.ready),
    ReadServerMetadata: Rpc(
        "ServerMetadata", lambda reply: ServerMetadata(reply.name, reply.version, tuple(reply.extensions))
    ),
    ListModels: Rpc(
        "RepositoryIndex",
        lambda reply: tuple(
            ModelStatus(model.name, model.version, _state(model.state), model.reason) for model in reply.models
        ),
    ),
    ReadModelMetadata: Rpc("ModelMetadata", _model_metadata),
    ReadModelConfig: Rpc("ModelConfig", _model_config),
    ReadConfigDocument: Rpc("ModelConfig", lambda reply: document_from_message(reply.config)),
    ReadStatistics: Rpc("ModelStatistics", lambda reply: read_statistics(document_from_message(reply))),
    LoadModel: Rpc("RepositoryModelLoad", request=_load_request),
    UnloadModel: Rpc("RepositoryModelUnload", request=_unload_request),
    TraceSettings: Rpc(
        "TraceSetting",
        lambda reply: {name: list(setting.value) for name, setting in reply.settings.items()},
        _trace_request,
    ),
    LogSettings: Rpc("LogSettings", lambda reply: chosen_values(reply.settings), _log_request),
    RegisterSharedMemory: Rpc(
        "SystemSharedMemoryRegister",
        request=lambda operation: service_pb2.SystemSharedMemoryRegisterRequest(
            name=operation.name, key=operation.key, byte_size=operation.size
        ),
    ),
    UnregisterSharedMemory: Rpc("SystemSharedMemoryUnregister"),
    ListSharedMemory: Rpc("SystemSharedMemoryStatus", lambda reply: tuple(reply.regions)),
    RegisterCudaSharedMemory: Rpc(
        "CudaSharedMemoryRegister",
        request=lambda operation: service_pb2.CudaSharedMemoryRegisterRequest(
            name=operation.name, raw_handle=operation.handle, device_id=operation.device, byte_size=operation.size
        ),
    ),
    UnregisterCudaSharedMemory: Rpc("CudaSharedMemoryUnregister"),
    ListCudaSharedMemory: Rpc("CudaSharedMemoryStatus", lambda reply: tuple(reply.regions)),
    Infer: Rpc("ModelInfer", lambda reply: infer_result(reply, {}), infer_request),
}
