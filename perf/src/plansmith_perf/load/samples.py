"""What a load test sends and expects: real samples and golden answers from files, or random values and idle answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_client import InferenceFailed, InvalidInput
from plansmith_client.commands.input_files import read_inputs
from plansmith_client.inputs.conversion import UnfitValueError, array_from_value
from plansmith_client.sampling import random_inputs
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.requests import CheckedRequest, check_answer
from plansmith_perf.load.server_side import describe_config, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_client import Model, TensorSpec
    from plansmith_perf.load.measuring import MeasuringOptions

__all__ = ["RequestOptions", "check_loadable", "make_requests"]

Arrays = dict[str, "NDArray[Any]"]


def check_loadable(model: Model) -> str:
    """Refuse models that a load of single requests with single answers cannot measure.

    Returns:
        How the model is served, in a few words; see `describe_config`.

    Raises:
        LoadTestMisconfigured: the model takes sequences, or is decoupled.
    """
    config = read_config(model)
    if "sequence_batching" in config:
        raise LoadTestMisconfigured(
            f"model {model.name!r} takes sequences (sequence_batching), and load tests here send single requests "
            "only: use perf_analyzer with its option --sequence-length, or measure sequences in a program of your own "
            "with model.sequence()"
        )
    if model.metadata.decoupled:
        raise LoadTestMisconfigured(
            f"model {model.name!r} is decoupled: it answers a request with any number of responses, and plansmith's "
            "load tests expect exactly one. Use perf_analyzer with --streaming, or measure streams in your own program "
            "with model.stream()"
        )
    return describe_config(config)


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """What is sent, and how its answers are measured, whatever it is measured for.

    Attributes:
        measuring: how each load is measured; its seed is that of random values, too.
        samples: .npz, .npy or .json; the first dimension of each array counts samples. None: random values.
        golden: the right outputs in a file of the same kinds, row by row as in `samples`. None: what the idle server
            answers.
        distinct_inputs: the most different requests to make.
        batch_size: samples a request; 1 for a model that does not batch.
    """

    measuring: MeasuringOptions
    samples: Path | None = None
    golden: Path | None = None
    distinct_inputs: int = 16
    batch_size: int = 1

    @property
    def inputs(self) -> str:
        """What a result says of the inputs."""
        return self.samples.name if self.samples else "random"


def make_requests(model: Model, options: RequestOptions) -> tuple[CheckedRequest, ...]:
    """The different requests of a load test, each answered once by the idle server and found right.

    Raises:
        LoadTestMisconfigured: the options contradict each other or the model, or random values are not valid for it.
        WrongAnswer: the idle server does not answer as the golden file says.
        plansmith_client.ClientError: the server does not answer.
    """
    samples, golden, batch_size = options.samples, options.golden, options.batch_size
    metadata = model.metadata
    if not metadata.max_batch_size and batch_size != 1:
        raise LoadTestMisconfigured(f"model {model.name!r} does not batch: --batch-size must be 1, got {batch_size}")
    if metadata.max_batch_size and batch_size > metadata.max_batch_size:
        raise LoadTestMisconfigured(
            f"--batch-size {batch_size} is more than model {model.name!r} takes at once, {metadata.max_batch_size}"
        )
    if golden is not None and samples is None:
        raise LoadTestMisconfigured("--golden holds the answers to given samples: give those with --samples")
    if samples is None:
        batch, seed = batch_size if metadata.max_batch_size else None, options.measuring.seed
        random = [
            random_inputs(metadata.inputs, batch=batch, seed=seed + number) for number in range(options.distinct_inputs)
        ]
        try:
            return tuple(CheckedRequest(inputs, dict(model.infer(inputs))) for inputs in random)
        except (InvalidInput, InferenceFailed) as error:
            raise LoadTestMisconfigured(
                f"model {model.name!r} does not take random values, so give real ones with --samples FILE: {error}"
            ) from error
    inputs = _split(read_inputs([str(samples)], metadata.inputs), metadata.inputs, metadata.max_batch_size, batch_size)
    requests = inputs[: options.distinct_inputs]
    if not requests:
        raise LoadTestMisconfigured(f"{samples} has fewer samples than one request takes, {batch_size}")
    if golden is None:
        return tuple(CheckedRequest(arrays, _ask(model, arrays)) for arrays in requests)
    outputs = read_inputs([str(golden)], metadata.outputs)
    answers = _split(outputs, metadata.outputs, metadata.max_batch_size, batch_size)
    if len(answers) < len(requests):
        raise LoadTestMisconfigured(f"{golden} has answers to {len(answers)} requests, {samples} makes {len(requests)}")
    checked = tuple(map(CheckedRequest, requests, answers))
    for request in checked:
        check_answer(_ask(model, request.inputs), request.expected, tolerance=options.measuring.tolerance)
    return checked


def _ask(model: Model, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    try:
        return dict(model.infer(arrays))
    except InvalidInput as error:
        raise LoadTestMisconfigured(f"the samples do not fit model {model.name!r}: {error}") from error


def _array(value: Any, spec: TensorSpec) -> NDArray[Any]:
    try:
        return array_from_value(value, spec.datatype, cast=True)
    except UnfitValueError as error:
        raise LoadTestMisconfigured(f"tensor {spec.name!r} of the file {error}") from error


def _split(
    given: Mapping[str, Any], specs: Sequence[TensorSpec], max_batch_size: int | None, batch_size: int
) -> list[Arrays]:
    """The arrays of each request. Arrays that the model does not know are for something else, such as labels."""
    known = {spec.name: spec for spec in specs}
    arrays = {name: _array(value, known[name]) for name, value in given.items() if name in known}
    if not arrays:
        names = ", ".join(known)
        raise LoadTestMisconfigured(f"none of {', '.join(given) or 'nothing'} is a tensor of the model: {names}")
    if any(array.ndim == 0 for array in arrays.values()):
        raise LoadTestMisconfigured("samples need a first dimension that counts them")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise LoadTestMisconfigured(f"the arrays hold different numbers of samples: {counts}")
    number = next(iter(counts.values()))
    # Without batching a sample is a whole request, unless its first dimension is a dynamic one of the model's own.
    whole = not max_batch_size and all(array.ndim == len(known[name].shape) + 1 for name, array in arrays.items())
    if whole:
        return [{name: array[i] for name, array in arrays.items()} for i in range(number)]
    starts = range(0, number - batch_size + 1, batch_size)
    return [{name: array[i : i + batch_size] for name, array in arrays.items()} for i in starts]
