"""The sequence batcher: its control inputs, its states, and its two strategies.

Rules: GetBooleanSequenceControlProperties, GetTypedSequenceControlProperties and ValidateModelConfig in
triton-inference-server/core, src/model_config_utils.cc; GenerateInitialStateData in
src/sequence_batch_scheduler/sequence_batch_scheduler.cc; SequenceStates::Initialize in src/sequence_state.cc.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.reading.shapes import fits
from plansmith_build.repository.linting.files import check_data_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_sequences"]

_CONTROL = model_config_pb2.ModelSequenceBatching.Control
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_ID_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")

# Those of plansmith-server that keep states themselves.
_FROM_PIP = ("onnxruntime", "openvino")

# The direct strategy makes a queue for each row of a batch, of some 600 bytes, in each instance.
_MOST_SLOTS = 10_000_000


def check_sequences(context: ConfigContext) -> Iterator[Finding]:
    """Control inputs, preferred batch sizes and slot utilization."""
    config = context.config
    if not config.HasField("sequence_batching"):
        return
    batching = config.sequence_batching
    if not batching.control_input and not batching.state:
        yield context.warning(
            "sequence_batching without control inputs: the model is not told where sequences begin",
            "add control_input, where the model has one",
        )
    yield from _check_warmup(context)
    yield from _check_controls(context)
    for state in batching.state:
        yield from _check_state(context, state)
    for size in batching.oldest.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            yield context.error(
                f"preferred_batch_size {size} of sequence_batching is not within max_batch_size "
                f"{config.max_batch_size}",
                "remove it",
            )
    if batching.WhichOneof("strategy_choice") != "oldest" and config.max_batch_size > _MOST_SLOTS:
        yield context.error(
            f"max_batch_size {config.max_batch_size} with the direct strategy of sequence_batching takes more memory "
            "than a server has, which ends it with all its models",
            "write how many sequences run at once",
        )
    if not 0 <= batching.direct.minimum_slot_utilization <= 1:
        yield context.error(
            f"minimum_slot_utilization must be from 0 to 1, got {batching.direct.minimum_slot_utilization}",
            "correct it",
        )


def _check_warmup(context: ConfigContext) -> Iterator[Finding]:
    if not context.config.sequence_batching.state or context.backend not in _FROM_PIP:
        return
    for sample in context.config.model_warmup:
        if sample.batch_size:
            yield context.error(
                f"warm-up sample {sample.name!r} begins no sequence, and a model with states of sequences answers "
                "nothing else: plansmith-server does not load it",
                "remove model_warmup",
            )


def _check_state(context: ConfigContext, state: Any) -> Iterator[Finding]:
    what = f"state {state.input_name!r}"
    if state.data_type == model_config_pb2.TYPE_INVALID:
        yield context.error(f"{what} has no data_type", "add it")
    if state.use_growable_memory and not state.use_same_buffer_for_input_output:
        yield context.error(
            f"{what} has use_growable_memory without use_same_buffer_for_input_output",
            "set both, or remove use_growable_memory",
        )
    if len(state.initial_state) > 1:
        yield context.error(f"{what} has {len(state.initial_state)} initial_state", "keep one of them")
    for initial in state.initial_state[:1]:
        yield from _check_initial(context, what, state, initial)


def _check_initial(context: ConfigContext, what: str, state: Any, initial: Any) -> Iterator[Finding]:
    what = f"initial_state of {what}"
    if not initial.name:
        yield context.error(f"the {what} has no name", "add name")
    if initial.data_type != state.data_type:
        name = model_config_pb2.DataType.Name(state.data_type)
        yield context.error(f"the {what} has another data_type", f"write data_type: {name}")
    dims, wanted = list(initial.dims), list(state.dims)
    if min(dims, default=0) < 0 or not fits(dims, wanted):
        yield context.error(f"the {what} has dims {dims}, and the state {wanted}", "write the size of each")
    elif not initial.WhichOneof("state_data"):
        yield context.error(f"the {what} has no data", "add zero_data: true or data_file")
    elif initial.WhichOneof("state_data") == "data_file":
        yield from check_data_file(
            context, what, "initial_state", initial.data_file, data_type=initial.data_type, numbers=prod(dims)
        )


def _check_controls(context: ConfigContext) -> Iterator[Finding]:
    inputs = context.config.sequence_batching.control_input
    for name, count in Counter(control.name for control in inputs).items():
        if not name:
            yield context.error("a control_input has no name", "add name")
        elif count > 1:
            yield context.error(f"control_input {name!r} is declared {count} times", "give each an input of its own")
    controls = [control for entry in inputs for control in entry.control]
    for kind, count in Counter(control.kind for control in controls).items():
        if count > 1:
            yield context.error(f"{_CONTROL.Kind.Name(kind)} is given to {count} inputs", "keep one of them")
    for control in controls:
        yield from _check_control(context, control)


def _check_control(context: ConfigContext, control: Any) -> Iterator[Finding]:
    kind = _CONTROL.Kind.Name(control.kind)
    given = [field for field in _VALUES if getattr(control, field)]
    if control.kind == _CONTROL.CONTROL_SEQUENCE_CORRID:
        if given:
            yield context.error(f"{kind} cannot have {given[0]}", "remove it, and write data_type")
        name = model_config_pb2.DataType.Name(control.data_type)
        if name not in _ID_TYPES:
            yield context.error(f"{kind} has data_type {name}", f"write one of {', '.join(_ID_TYPES)}")
    elif len(given) != 1:
        yield context.error(
            f"{kind} has {' and '.join(given) or 'no values'}", f"write exactly one of {', '.join(_VALUES)}"
        )
    elif len(getattr(control, given[0])) != 2:  # noqa: PLR2004 - false and true
        yield context.error(f"{given[0]} of {kind} must have two values: false and true", "write two values")
