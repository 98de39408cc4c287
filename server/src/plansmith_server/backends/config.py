"""A model's configuration, as Triton gives it to a backend: JSON of model_config.proto's ModelConfig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Accelerator", "ConfigState", "ConfigTensor", "ModelConfig", "parse_switch", "parse_whole_number"]


@dataclass(frozen=True, slots=True)
class ConfigTensor:
    """One `input` or `output`.

    Attributes:
        name: of the tensor.
        data_type: such as "TYPE_FP32".
        shape: what the model gets or gives: `reshape.shape` if set, else `dims`; without the batch
            dimension, -1 for any size.
        optional: whether a request may leave it out.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class ConfigState:
    """One entry of `sequence_batching.state`: what a run gives as `output`, the next of a sequence takes as `input`."""

    input: ConfigTensor
    output: ConfigTensor


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One entry of `optimization.execution_accelerators`."""

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The fields of ModelConfig that the backends use.

    Attributes:
        name: of the model.
        max_batch_size: 0 for a model that does not batch.
        inputs: as configured.
        outputs: as configured.
        parameters: key to string_value.
        model_file: `default_model_filename`, or "".
        instance_count: how many instances of the model run on the CPU.
        graph_level: `optimization.graph.level`, 0 if unset.
        gpu_accelerators: `optimization.execution_accelerators.gpu_execution_accelerator`.
        cpu_accelerators: `optimization.execution_accelerators.cpu_execution_accelerator`.
        operation_libraries: `model_operations.op_library_filename`.
        control_inputs: inputs that the sequence batcher adds to each request.
        states: what sequences remember; empty for a model without implicit state.
        sequence_idle_seconds: after how long without a request a sequence ends.
        unsupported: configured features that a Python-based backend cannot provide.
    """

    name: str
    max_batch_size: int
    inputs: tuple[ConfigTensor, ...]
    outputs: tuple[ConfigTensor, ...]
    parameters: Mapping[str, str]
    model_file: str
    instance_count: int
    graph_level: int
    gpu_accelerators: tuple[Accelerator, ...]
    cpu_accelerators: tuple[Accelerator, ...]
    operation_libraries: tuple[str, ...]
    control_inputs: frozenset[str]
    states: tuple[ConfigState, ...]
    sequence_idle_seconds: float
    unsupported: tuple[str, ...]

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Read the JSON object that Triton passes on."""
        optimization = config.get("optimization", {})
        accelerators = optimization.get("execution_accelerators", {})
        sequence = config.get("sequence_batching", {})
        controls = [kind for tensor in sequence.get("control_input", ()) for kind in tensor.get("control", ())]
        unsupported = {
            "batch_input": config.get("batch_input"),
            "batch_output": config.get("batch_output"),
            "text as a state (sequence_batching.state)": any(
                state.get("data_type") == "TYPE_STRING" for state in sequence.get("state", ())
            ),
            # Triton keeps such a state itself, and gives it to no Python-based backend.
            "use_growable_memory (sequence_batching.state)": any(
                state.get("use_growable_memory") for state in sequence.get("state", ())
            ),
            # Triton 2.51 hands it to a Python-based backend with one value too many, and refuses every request.
            "a sequence id as TYPE_STRING (CONTROL_SEQUENCE_CORRID)": any(map(_is_text_id, controls)),
            "allow_ragged_batch": any(tensor.get("allow_ragged_batch") for tensor in config.get("input", ())),
        }
        return cls(
            name=str(config["name"]),
            max_batch_size=int(config.get("max_batch_size", 0)),
            inputs=tuple(map(_tensor, config.get("input", ()))),
            outputs=tuple(map(_tensor, config.get("output", ()))),
            parameters={key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()},
            model_file=str(config.get("default_model_filename", "")),
            instance_count=max(1, sum(map(_cpu_instances, config.get("instance_group", ())))),
            graph_level=int(optimization.get("graph", {}).get("level", 0)),
            gpu_accelerators=tuple(map(_accelerator, accelerators.get("gpu_execution_accelerator", ()))),
            cpu_accelerators=tuple(map(_accelerator, accelerators.get("cpu_execution_accelerator", ()))),
            operation_libraries=tuple(config.get("model_operations", {}).get("op_library_filename", ())),
            control_inputs=frozenset(str(control["name"]) for control in sequence.get("control_input", ())),
            states=tuple(map(_state, sequence.get("state", ()))),
            # Triton's own default is a second.
            sequence_idle_seconds=int(sequence.get("max_sequence_idle_microseconds", 0)) / 1e6 or 1.0,
            unsupported=tuple(name for name, value in unsupported.items() if value),
        )

    @property
    def run_inputs(self) -> tuple[ConfigTensor, ...]:
        """What a run takes: the inputs of requests, and states."""
        return (*self.inputs, *(state.input for state in self.states))

    @property
    def run_outputs(self) -> tuple[ConfigTensor, ...]:
        """What a run gives: the outputs of requests, and states that are none of them."""
        named = {tensor.name for tensor in self.outputs}
        return (*self.outputs, *(state.output for state in self.states if state.output.name not in named))


def parse_whole_number(key: str, text: str, smallest: int = 0) -> int:
    """The number that parameter `key` holds.

    Raises:
        ModelError: it is not a whole number, or less than `smallest`.
    """
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise ModelError(f"parameter {key!r} must be a whole number of at least {smallest}, got {text!r}")
    return number


def parse_switch(key: str, text: str) -> bool:
    """Whether parameter `key` is on: "1" or "true", "0" or "false", as Triton's native backends read it.

    Raises:
        ModelError: it is something else.
    """
    switches = {"1": True, "true": True, "0": False, "false": False}
    try:
        return switches[text.lower()]
    except KeyError:
        raise ModelError(f"parameter {key!r} must be 1 or 0 (true or false), got {text!r}") from None


def _tensor(tensor: Mapping[str, Any]) -> ConfigTensor:
    dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor.get("dims", ())
    return ConfigTensor(
        name=str(tensor["name"]),
        data_type=str(tensor.get("data_type", "TYPE_INVALID")),
        shape=tuple(int(dim) for dim in dims),
        optional=bool(tensor.get("optional", False)),
    )


def _state(state: Mapping[str, Any]) -> ConfigState:
    """A state has the fields of a tensor, with a name for each side."""
    taken, given = (_tensor({**state, "name": state[key]}) for key in ("input_name", "output_name"))
    return ConfigState(taken, given)


def _is_text_id(control: Mapping[str, Any]) -> bool:
    return control.get("kind") == "CONTROL_SEQUENCE_CORRID" and control.get("data_type") == "TYPE_STRING"


def _accelerator(entry: Mapping[str, Any]) -> Accelerator:
    parameters = {str(key): str(value) for key, value in entry.get("parameters", {}).items()}
    return Accelerator(name=str(entry["name"]), parameters=parameters)


def _cpu_instances(group: Mapping[str, Any]) -> int:
    return 0 if group.get("kind") == "KIND_GPU" else int(group.get("count", 1))
