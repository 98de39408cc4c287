"""Which tensor goes where in a pipeline, as the configuration of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritonclient.grpc import model_config_pb2

from plansmith_build.errors import InvalidOption
from plansmith_build.reading.shapes import agree
from plansmith_client.tensors import config_type_from_datatype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_client.tensors import TensorSpec

__all__ = ["Node", "Wiring"]


@dataclass(frozen=True)
class Node:
    """One step of a pipeline as a model that is served.

    Attributes:
        name: the model's.
        inputs: with the batch dimension, which every tensor of a pipeline has.
        outputs: likewise.
        max_batch_size: 0 for a model that takes no batches.
        run: the same in this process.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    run: Callable[[Arrays], Arrays]


@dataclass
class Wiring:
    """The steps so far, and the tensors between them.

    Attributes:
        inputs: of the ensemble: those of the first step.
        tensors: every tensor by its name in the ensemble; of several of one name the last.
        last: the names of the last step's outputs.
        steps: each step with its maps from its own names to the ensemble's.
    """

    inputs: tuple[TensorSpec, ...] = ()
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    steps: list[tuple[Node, dict[str, str], dict[str, str]]] = field(default_factory=list)

    def add(self, node: Node, given: Mapping[str, str], kind: str) -> None:
        """Add a step.

        Raises:
            InvalidOption: it is not clear which tensor an input is, or types or shapes do not fit.
        """
        if not self.steps:
            self.inputs = node.inputs
            self.tensors = {spec.name: spec for spec in node.inputs}
        sources = self.sources(node.inputs, given, kind)
        for spec in node.inputs:
            if spec.name in sources:
                _require_same(kind, spec, sources[spec.name], self.tensors[sources[spec.name]])
        names = {spec.name: self._new_name(spec.name) for spec in node.outputs}
        self.tensors.update({names[spec.name]: spec for spec in node.outputs})
        self.last = tuple(names.values())
        self.steps.append((node, sources, names))

    def finish(self) -> None:
        """Call the outputs of the last step what it calls them, where a tensor between steps has that name."""
        inputs = {spec.name for spec in self.inputs}
        names = {tensor: own for own, tensor in self.steps[-1][2].items() if tensor != own and own not in inputs}
        names |= {own: tensor for tensor, own in names.items()}
        self.tensors = {names.get(tensor, tensor): spec for tensor, spec in self.tensors.items()}
        self.last = tuple(names.get(tensor, tensor) for tensor in self.last)

        def renamed(side: dict[str, str]) -> dict[str, str]:
            return {own: names.get(tensor, tensor) for own, tensor in side.items()}

        self.steps = [(node, renamed(sources), renamed(made)) for node, sources, made in self.steps]

    def sources(self, inputs: Sequence[TensorSpec], given: Mapping[str, str], kind: str) -> dict[str, str]:
        """The tensor that each input of a step is: as said, of the same name, or the first of the step before.

        Raises:
            InvalidOption: an input has none, or the pipeline's file names what is not there.
        """
        known = [spec.name for spec in inputs]
        for name, tensor in given.items():
            if name not in known or tensor not in self.tensors:
                raise InvalidOption(
                    f"step {len(self.steps) + 1} ({kind}) maps the input {name!r} to the tensor {tensor!r}: its inputs "
                    f"are {', '.join(known)}, and the tensors before it are {', '.join(self.tensors)}"
                )
        # A model's input may by chance be called as what the pipeline takes: `image`, for example.
        own = {spec.name for spec in inputs if spec.name in self.tensors and _fits(spec, self.tensors[spec.name])}
        sources = {name: given.get(name, name) for name in known if name in given or name in own}
        missing = [spec.name for spec in inputs if spec.name not in sources and not spec.optional]
        if len(missing) == 1 and self.last:
            sources[missing[0]] = self.last[0]
        elif missing:
            raise InvalidOption(
                f"step {len(self.steps) + 1} ({kind}) needs {', '.join(missing)}, and it is not clear which of the "
                f'tensors {", ".join(self.tensors)} that is: write inputs = {{{missing[0]} = "..."}} in the step'
            )
        return sources

    def config(self, name: str) -> Any:
        """The configuration of the ensemble, an `inference.ModelConfig`."""
        batches = [node.max_batch_size for node, _, _ in self.steps]
        size = min(batches)
        config = model_config_pb2.ModelConfig(name=name, platform="ensemble", max_batch_size=size)
        sides = ((config.input, self.inputs), (config.output, self.outputs))
        for tensors, specs in sides:
            for spec in specs:
                tensor = tensors.add(name=spec.name)
                tensor.data_type = model_config_pb2.DataType.Value(config_type_from_datatype(spec.datatype))
                tensor.dims.extend(spec.shape[1:] if size else spec.shape)
        read = {tensor for _, sources, _ in self.steps for tensor in sources.values()} | set(self.last)
        for node, sources, names in self.steps:
            step = config.ensemble_scheduling.step.add(model_name=node.name, model_version=-1)
            step.input_map.update(sources)
            # What nobody reads is not computed.
            step.output_map.update({own: tensor for own, tensor in names.items() if tensor in read})
        return config

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the ensemble: those of the last step."""
        return tuple(
            type(spec)(name, spec.datatype, spec.shape)
            for name, spec in ((name, self.tensors[name]) for name in self.last)
        )

    def run(self, inputs: Arrays) -> Arrays:
        """The answer of the whole, step by step in this process."""
        tensors = dict(inputs)
        for node, sources, names in self.steps:
            made = node.run({own: tensors[tensor] for own, tensor in sources.items()})
            tensors.update({tensor: made[own] for own, tensor in names.items()})
        return {name: tensors[name] for name in self.last}

    def _new_name(self, name: str) -> str:
        return name if name not in self.tensors else f"{name}_{len(self.steps) + 1}"


def _fits(spec: TensorSpec, tensor: TensorSpec) -> bool:
    return spec.datatype == tensor.datatype and agree(spec.shape, tensor.shape)


def _require_same(kind: str, spec: TensorSpec, name: str, tensor: TensorSpec) -> None:
    if not _fits(spec, tensor):
        raise InvalidOption(
            f"the step {kind} takes {spec.name} {spec}, and the tensor {name!r} is {tensor}: name another with inputs"
        )
