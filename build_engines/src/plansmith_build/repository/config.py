"""config.pbtxt, written and read through Triton's own protobuf.

The configuration is portable: the native ONNX Runtime backend of the stock containers and the Python-based one of
plansmith-server take it unchanged. Its fields are described in triton-inference-server/common,
protobuf/model_config.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from plansmith_build.errors import BuildError, InvalidModel, InvalidOption
from plansmith_build.portable.sequence_states import without_states
from plansmith_client.image_rows import RECIPE_PARAMETER
from plansmith_client.tensors import TensorSpec, config_type_from_datatype, datatype_from_config_type

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from plansmith_build.portable.sequence_states import State
    from plansmith_build.reading.signatures import Signature

__all__ = [
    "bound_queue",
    "config_from_text",
    "count_instances",
    "model_config",
    "specs_from_config",
    "text_from_config",
    "versions_served",
]

WORKSPACE_BYTES = 2**30
# A stream may pause so long before it has to begin again, and so many go on at once in an instance of the model.
IDLE_MICROSECONDS = 60_000_000
SEQUENCES_AT_ONCE = 256
# Without the batch: Triton takes a format for no other number.
_IMAGE_DIMS = 3
_CHANNELS = (1, 3)
_NO_NUMBERS = ("BYTES", "BOOL")


def model_config(
    name: str,
    signature: Signature,
    *,
    max_batch_size: int,
    labels: Collection[str] = (),
    precision: str = "FP32",
    preprocessing: str = "",
    states: Sequence[State] = (),
) -> Any:
    """The portable configuration of a model.

    Args:
        name: the model's name.
        signature: what the graph takes and gives, the batch dimension included where it has one.
        max_batch_size: 0 for a model that takes no batches; else the first dimension is the batch's.
        labels: the outputs for which labels.txt names the classes.
        precision: what the TensorRT provider may compute in: `"FP32"`, `"FP16"` or `"BF16"`.
        preprocessing: how clients make an input from an image, as JSON; empty where that was not declared.
        states: what the model remembers of a sequence.

    Returns:
        An `inference.ModelConfig` message.

    Raises:
        InvalidOption: a state has a dimension of any size besides its rows, or any number of rows that are not batched.
    """
    clients = without_states(signature, states)
    config = model_config_pb2.ModelConfig(name=name, backend="onnxruntime", max_batch_size=max_batch_size)
    for spec in clients.inputs:
        tensor = config.input.add(name=spec.name, optional=spec.optional)
        _declare(tensor, spec, batched=bool(max_batch_size))
        if max_batch_size and spec.datatype not in _NO_NUMBERS:
            tensor.format = _image_format(tensor.dims)
    for spec in clients.outputs:
        tensor = config.output.add(name=spec.name)
        _declare(tensor, spec, batched=bool(max_batch_size))
        if spec.name in labels:
            tensor.label_filename = "labels.txt"
    if states:
        _declare_states(config, signature, states)
    elif max_batch_size:
        config.dynamic_batching.SetInParent()
    if preprocessing:
        config.parameters[RECIPE_PARAMETER].string_value = preprocessing
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO, count=1)
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters["precision_mode"] = precision
    accelerator.parameters["max_workspace_size_bytes"] = str(WORKSPACE_BYTES)
    # No engine cache: the provider's file name for an engine has no weights in it, so a retrained version would be
    # served by the engine of the one before (https://github.com/microsoft/onnxruntime/issues/6455).
    return config


def count_instances(config: Any) -> int:
    """On each device; 0 where the server chooses, which then has one."""
    return sum(max(1, group.count) for group in config.instance_group)


def bound_queue(config: Any, requests: int) -> None:
    """Let so many requests wait for a model with dynamic batching, which then has two instances at least.

    For a queue with such a policy Triton forms a batch only while an instance is free. Seen with 2.51: where there is
    one instance, it sleeps for half a second when a request comes just before that one is.
    """
    config.dynamic_batching.default_queue_policy.max_queue_size = requests
    if count_instances(config) <= 1:
        group = config.instance_group[0] if config.instance_group else config.instance_group.add()
        group.count = 2


def text_from_config(config: Any) -> str:
    """The text of config.pbtxt, which reads back as an equal message.

    Raises:
        BuildError: it does not, which is a bug.
    """
    text = text_format.MessageToString(config, as_utf8=True)
    if config_from_text(text) != config:
        raise BuildError("the configuration does not read back as it was written: this is a bug, please report it")
    return text


def config_from_text(text: str) -> Any:
    """Parse config.pbtxt.

    Raises:
        InvalidModel: the text is not a model configuration; the message gives line and column.
    """
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise InvalidModel(f"not a model configuration: {error}") from error


def versions_served(config: Any, there: Sequence[int]) -> tuple[int, ...]:
    """The versions that a server would load of those that are there, the oldest first in both.

    As VersionsToLoad in core, src/model_lifecycle.cc, does it.
    """
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return tuple(there)
        case "specific":
            return tuple(version for version in there if version in policy.specific.versions)
        case "latest":
            newest = policy.latest.num_versions
        case _:
            newest = 1
    return tuple(there[-newest:]) if newest else ()


def specs_from_config(tensors: Sequence[Any], *, batched: bool) -> tuple[TensorSpec, ...]:
    """The tensors of a configuration as clients see them, with the batch dimension where there is one."""
    return tuple(
        TensorSpec(
            tensor.name,
            datatype_from_config_type(model_config_pb2.DataType.Name(tensor.data_type)),
            (*([-1] if batched else []), *tensor.dims),
            optional=getattr(tensor, "optional", False),
        )
        for tensor in tensors
        # A configuration that leaves the type to the server says nothing yet.
        if tensor.data_type != model_config_pb2.TYPE_INVALID
    )


def _declare_states(config: Any, signature: Signature, states: Sequence[State]) -> None:
    """Sequences keep their states in the server; requests of different ones are batched as they come."""
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = IDLE_MICROSECONDS
    batching.oldest.max_candidate_sequences = SEQUENCES_AT_ONCE
    taken = {spec.name: spec for spec in signature.inputs}
    for state in states:
        spec = taken[state.input]
        dims = spec.shape[1:] if config.max_batch_size else spec.shape
        if not config.max_batch_size and spec.shape[:1] == (-1,) and all(size > 0 for size in dims[1:]):
            raise InvalidOption(
                f"state {spec.name!r} ({spec}) has any number of rows and the rows of this version are not batched, so "
                "a server cannot make the first one: export the model with one row, or with rows that it can batch"
            )
        if not all(size > 0 for size in dims):
            raise InvalidOption(
                f"state {spec.name!r} ({spec}) has a dimension of any size, so a server cannot make the first one: "
                "export the model with fixed sizes"
            )
        declared = batching.state.add(input_name=state.input, output_name=state.output)
        declared.data_type = model_config_pb2.DataType.Value(config_type_from_datatype(spec.datatype))
        declared.dims.extend(dims or (1,))
        zeros = declared.initial_state.add(name=f"{state.input} at first", zero_data=True)
        zeros.data_type = declared.data_type
        zeros.dims.extend(declared.dims)


def _image_format(dims: Sequence[int]) -> Any:
    """How an input that looks like an image is laid out: NVIDIA's image clients refuse a model that does not say it."""
    if len(dims) == _IMAGE_DIMS and dims[0] in _CHANNELS and dims[-1] not in _CHANNELS:
        return model_config_pb2.ModelInput.FORMAT_NCHW
    if len(dims) == _IMAGE_DIMS and dims[-1] in _CHANNELS and dims[0] not in _CHANNELS:
        return model_config_pb2.ModelInput.FORMAT_NHWC
    return model_config_pb2.ModelInput.FORMAT_NONE


def _declare(tensor: Any, spec: TensorSpec, *, batched: bool) -> None:
    tensor.data_type = model_config_pb2.DataType.Value(config_type_from_datatype(spec.datatype))
    dims = spec.shape[1:] if batched else spec.shape
    # Triton wants at least one dimension: clients see [1].
    tensor.dims.extend(dims or (1,))
    if not dims and batched:
        # The graph is given what it asks for, one value for each row. Without batches Triton refuses an empty reshape,
        # and a graph of ours takes vectors of one instead: see `scalars`.
        tensor.reshape.SetInParent()
