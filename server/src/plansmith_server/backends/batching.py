"""Requests answered by one run where a model batches, and each on its own where that fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.datatypes import STRING
from plansmith_server.backends.tensors import make_reader, make_writer
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from plansmith_server.backends.config import ModelConfig
    from plansmith_server.backends.engine import Engine

__all__ = ["Answering", "Arrays"]

logger = logging.getLogger(__name__)

Arrays = dict[str, "NDArray[Any]"]


class _RowsDoNotFit(Exception):
    """The answer to several requests at once does not have their rows; the text says which output."""


class Answering:
    """Answers requests with an engine.

    Everything that is the same for all requests is computed once, in the constructor: this is the server's hot path.

    Args:
        engine: the loaded model.
        config: of the model.
        triton: the module triton_python_backend_utils.
        text_as_bytes: whether the engine takes BYTES as they come.
    """

    def __init__(self, engine: Engine, config: ModelConfig, triton: Any, *, text_as_bytes: bool = False) -> None:
        shapes = {tensor.name: tensor.shape for tensor in (*engine.signature.inputs, *engine.signature.optional_inputs)}
        self._run = engine.run
        self._name = config.name
        obstacle = engine.signature.obstacle_to_splitting if config.max_batch_size > 0 else ""
        self._batches = config.max_batch_size > 0 and not obstacle
        if obstacle:
            self._say_alone(obstacle)
        self._triton = triton
        self._response = triton.InferenceResponse
        self._outputs = tuple(tensor.name for tensor in config.outputs)
        self._computed = tuple(tensor.name for tensor in config.run_outputs)
        self._writers: dict[str, Callable[[NDArray[Any]], Any]] = {
            tensor.name: make_writer(triton, tensor.name, tensor.data_type) for tensor in config.outputs
        }
        readers = {
            tensor.name: make_reader(tensor.data_type, scalar=shapes.get(tensor.name) == ())
            for tensor in config.run_inputs
            if not (text_as_bytes and tensor.data_type == STRING)
        }
        self._text = tuple(
            tensor.name for tensor in config.inputs if tensor.data_type == STRING and tensor.name in readers
        )
        self._readers = {name: reader for name, reader in readers.items() if reader is not None}

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in their order; never raises for what a request holds."""
        if len(requests) == 1 or not self._batches:
            return [self._answer_alone(request) for request in requests]
        try:
            return self._answer_together(requests)
        except _RowsDoNotFit as error:
            # It will happen again, and next time the number of rows may match by chance.
            self._batches = False
            self._say_alone(str(error))
        except Exception as error:  # noqa: BLE001 - any error: each request is then tried on its own
            logger.debug("model %r: a batch of %d requests failed: %s", self._name, len(requests), error)
        return [self._answer_alone(request) for request in requests]

    def _say_alone(self, reason: str) -> None:
        logger.warning(
            "model %r: requests are computed one at a time, because %s: set max_batch_size to 0, or give every output"
            " one row for each row of the inputs",
            self._name,
            reason,
        )

    def _answer_alone(self, request: Any) -> Any:
        error_type = self._triton.TritonError
        try:
            names = self._wanted(request)
            arrays = self._run(names, self._read(request))
            return self._respond(request, names, arrays)
        except RequestError as error:
            return self._response(error=error_type(str(error), error_type.INVALID_ARG))
        except Exception as error:  # noqa: BLE001 - the runtimes have no common base of their errors
            invalid = type(error).__name__ == "InvalidArgument"
            code = error_type.INVALID_ARG if invalid else error_type.INTERNAL
            return self._response(error=error_type(f"model {self._name!r} failed: {error}", code))

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        feeds = [self._read(request) for request in requests]
        wanted = [self._wanted(request) for request in requests]
        first = feeds[0]
        if any(len({feed[name].dtype.kind for feed in feeds}) > 1 for name in self._text):
            raise TypeError("text that is not UTF-8 cannot be joined with other text")
        rows = [len(next(iter(feed.values()))) for feed in feeds]
        total = sum(rows)
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in first}
        everything = wanted[0]
        if any(names != everything for names in wanted):
            everything = tuple(name for name in self._computed if any(name in names for names in wanted))
        arrays = self._run(everything, together)
        for name, array in zip(everything, arrays, strict=True):
            if array.ndim == 0 or len(array) != total:
                given = "a single number" if array.ndim == 0 else f"{len(array)} rows"
                raise _RowsDoNotFit(f"output {name!r} had {given} for {total} in the inputs")
        responses = []
        start = 0
        for request, names, count in zip(requests, wanted, rows, strict=True):
            stop = start + count
            parts = [array[start:stop] for array in arrays]
            if names != everything:
                by_name = dict(zip(everything, parts, strict=True))
                parts = [by_name[name] for name in names]
            responses.append(self._respond(request, names, parts))
            start = stop
        return responses

    def _read(self, request: Any) -> Arrays:
        arrays: Arrays = {}
        readers = self._readers
        for tensor in request.inputs():
            name = tensor.name()
            reader = readers.get(name)
            arrays[name] = reader(tensor) if reader else tensor.as_numpy()
        return arrays

    def _wanted(self, request: Any) -> tuple[str, ...]:
        names = request.requested_output_names()
        if len(names) == len(self._outputs):
            return self._outputs
        return tuple(name for name in self._outputs if name in names)

    def _respond(self, request: Any, names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> Any:
        del request  # for those that remember something of it
        writers = self._writers
        return self._response([writers[name](array) for name, array in zip(names, arrays, strict=True)])
