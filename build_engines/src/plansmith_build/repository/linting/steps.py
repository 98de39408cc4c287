"""The steps of an ensemble against the models that they use: versions, names, types, dims and batch sizes.

Rules: ValidateEnsembleConfig, ValidateTensorMapping and ValidateTensorConsistency in triton-inference-server/core,
src/ensemble_scheduler/ensemble_utils.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.errors import BuildError
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.reading.shapes import agree
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting.context import ConfigContext
from plansmith_build.repository.linting.ensembles import steps_in_order
from plansmith_build.repository.model_repository import CONFIG, RepositoryModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_steps"]

_ANY_VERSION = -1


@dataclass(frozen=True)
class _Tensor:
    """A tensor as one side declares it.

    Attributes:
        owner: the side, in words.
        data_type: a number of `inference.DataType`.
        dims: without the batch dimension; empty where nothing declares them.
        batch: whether there is a batch dimension.
        optional: whether a request may leave it out.
    """

    owner: str
    data_type: int
    dims: tuple[int, ...]
    batch: bool
    optional: bool = False

    def agrees_in_shape(self, other: _Tensor) -> bool:
        """Whether one of both shapes, without or with the batch dimension, can be the same."""
        if not self.dims or not other.dims:
            return True
        return agree(self.dims, other.dims) or agree(self.full, other.full)

    @property
    def full(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.batch else self.dims


@dataclass(frozen=True)
class _StepModel:
    inputs: Mapping[str, _Tensor]
    outputs: Mapping[str, _Tensor]
    max_batch_size: int


def check_steps(context: ConfigContext) -> Iterator[Finding]:
    """Whether the models exist, and fit each other and the ensemble."""
    if context.backend != "ensemble":
        return
    config = context.config
    own = [
        (tensor.name, _declared("the ensemble", tensor, batch=config.max_batch_size > 0, reshaped=True))
        for tensor in (*config.input, *config.output)
    ]
    tensors: dict[str, _Tensor] = dict(own)
    for step in config.ensemble_scheduling.step:
        if step.model_name:
            yield from _check_step(context, step, tensors)
    yield from _check_streams(context)
    circle = _way_back(context)
    if circle:
        yield context.error(
            f"the ensembles use each other in a circle: {' -> '.join(circle)}", "name another model in one of the steps"
        )


def _check_streams(context: ConfigContext) -> Iterator[Finding]:
    """Whether a step would wait for tensors of models that each answer as often as they like."""
    # The decoupled step that each tensor comes from; 0 for those of the request.
    sources = {tensor.name: 0 for tensor in context.config.input}
    for number, step in enumerate(steps_in_order(context.config), start=1):
        taken = {sources[name] for name in step.input_map.values()}
        if len(taken) > 1:
            yield context.error(
                f"the step of {step.model_name!r} reads tensors of which some come once and others any number of times",
                "read tensors of one decoupled model alone, or of none",
            )
        source = number if _is_decoupled(context, step.model_name, frozenset()) else max(taken, default=0)
        sources.update(dict.fromkeys(step.output_map.values(), source))


def _is_decoupled(context: ConfigContext, name: str, seen: frozenset[str]) -> bool:
    used = _context_of(context, name) if name in context.siblings - seen else None
    if used is None:
        return False
    return bool(used.config.model_transaction_policy.decoupled) or any(
        _is_decoupled(context, step.model_name, seen | {name}) for step in used.config.ensemble_scheduling.step
    )


def _way_back(context: ConfigContext) -> Sequence[str]:
    """The models from an ensemble back to itself; none where there is no such way, or where it is a step of its own."""
    own = context.model.name
    ways, seen = [[own]], {own}
    while ways:
        way = ways.pop()
        used = context if way == [own] else _context_of(context, way[-1])
        if used is None or used.backend != "ensemble":
            continue
        for step in used.config.ensemble_scheduling.step:
            if step.model_name == own and way != [own]:
                return [*way, own]
            if step.model_name in context.siblings - seen:
                seen.add(step.model_name)
                ways.append([*way, step.model_name])
    return ()


def _check_step(context: ConfigContext, step: Any, tensors: dict[str, _Tensor]) -> Iterator[Finding]:
    name = step.model_name
    if name not in context.siblings:
        yield context.error(f"the ensemble uses the model {name!r}, which does not exist", "add the model")
        return
    if name == context.model.name:
        yield context.error("the ensemble uses itself", "name another model in the step")
        return
    used = _context_of(context, name)
    if used is None:
        # Its configuration cannot be read, which is reported for that model.
        return
    if step.model_version not in (_ANY_VERSION, *used.served_versions):
        served = ", ".join(map(str, used.served_versions)) or "none"
        yield context.error(
            f"the ensemble uses version {step.model_version} of {name!r}, which is not served",
            f"write model_version: -1 for the newest, or one of {served}",
        )
    model = _step_model(used)
    if 0 < model.max_batch_size < context.config.max_batch_size:
        yield context.error(
            f"max_batch_size is {context.config.max_batch_size}, and the model {name!r} takes {model.max_batch_size}",
            f"write max_batch_size: {model.max_batch_size}, or build that model for larger batches",
        )
    yield from _check_maps(context, step, model, tensors)
    for own, tensor in model.inputs.items():
        if not tensor.optional and own not in step.input_map:
            yield context.error(f"the input {own!r} of the model {name!r} is not mapped", "add it to input_map")


def _check_maps(context: ConfigContext, step: Any, model: _StepModel, tensors: dict[str, _Tensor]) -> Iterator[Finding]:
    """Every name in the maps, and what it stands for on both sides; tensors that are new are remembered."""
    name = step.model_name
    sides = (
        ("input", "input_map", step.input_map, model.inputs),
        ("output", "output_map", step.output_map, model.outputs),
    )
    for role, field, names, known in sides:
        for own, outer in sorted(names.items()):
            if known and own not in known:
                yield context.error(
                    f"{field} names {own!r}, but the model {name!r} has no such {role}",
                    f"its {role}s are {', '.join(known)}: name one of them",
                )
            elif known:
                yield from _check_same(context, outer, tensors.setdefault(outer, known[own]), known[own])


def _check_same(context: ConfigContext, name: str, one: _Tensor, other: _Tensor) -> Iterator[Finding]:
    invalid = model_config_pb2.TYPE_INVALID
    if one.data_type != other.data_type and invalid not in (one.data_type, other.data_type):
        have, want = (model_config_pb2.DataType.Name(tensor.data_type) for tensor in (one, other))
        yield context.error(
            f"the ensemble's tensor {name!r} is {have} for {one.owner} and {want} for {other.owner}",
            "map tensors of one type to each other",
        )
    elif not one.agrees_in_shape(other):
        yield context.error(
            f"the ensemble's tensor {name!r} has dims {list(one.dims)} for {one.owner} and {list(other.dims)} for "
            f"{other.owner}",
            "map tensors of one shape to each other",
        )


def _context_of(context: ConfigContext, name: str) -> ConfigContext | None:
    model = RepositoryModel(context.model.path.parent / name)
    path = model.path / CONFIG
    try:
        config = config_from_text(read_regular(path).decode() if path.is_file() else "")
    except (BuildError, OSError, UnicodeDecodeError):
        return None
    return ConfigContext(model, f"{name}/{CONFIG}", config, context.siblings)


def _step_model(used: ConfigContext) -> _StepModel:
    """What the server knows of a model: its configuration, and what it completes from the ONNX file."""
    config = used.completed
    owner = f"the model {used.model.name!r}"
    inputs, outputs = (
        {tensor.name: _declared(owner, tensor, batch=config.max_batch_size > 0) for tensor in side}
        for side in (config.input, config.output)
    )
    return _StepModel(inputs, outputs, config.max_batch_size)


def _declared(owner: str, tensor: Any, *, batch: bool, reshaped: bool = False) -> _Tensor:
    dims = tensor.reshape.shape if reshaped and tensor.HasField("reshape") else tensor.dims
    return _Tensor(owner, tensor.data_type, tuple(dims), batch, getattr(tensor, "optional", False))
