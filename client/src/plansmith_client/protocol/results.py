"""The result of an inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import InvalidInput
from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator

    import numpy as np
    from numpy.typing import DTypeLike

__all__ = ["InferResult", "with_outputs"]


class InferResult(Mapping[str, "np.ndarray[Any, Any]"]):
    """The outputs of one inference by name, with the model, version and identifier of the answer.

    A mapping from output name to numpy array, in the server's order. A result with a single output also stands for its
    array wherever numpy takes one: `numpy.argmax(result, axis=1)`. Arrays own their memory and may be written to.

    Attributes:
        model_name: the model that answered.
        model_version: the version that answered.
        request_id: the identifier given with the request; empty without one.
        parameters: what the server adds to the response; often empty.

    Example:
        ```python
        result = client.model("digits")(images)  # images: float32 [n, 64]
        result["probabilities"]                  # float32 [n, 10]
        result.array                             # the same: the only output
        ```
    """

    __slots__ = ("_outputs", "model_name", "model_version", "parameters", "request_id")

    def __init__(
        self,
        outputs: Mapping[str, np.ndarray[Any, Any]],
        *,
        model_name: str,
        model_version: str,
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._outputs = dict(outputs)
        self.model_name = model_name
        self.model_version = model_version
        self.request_id = request_id
        self.parameters = dict(parameters) if parameters else {}

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        try:
            return self._outputs[name]
        except KeyError:
            raise KeyError(f"{self.model_name} has no output {name!r}: it has {', '.join(self._outputs)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def items(self) -> ItemsView[str, np.ndarray[Any, Any]]:
        """The outputs, each with its name.

        Example:
            ```python
            for name, array in client.model("digits")(images).items(): ...
            ```
        """
        # A mapping's own would look each of them up, and each answer is gone through to be checked.
        return self._outputs.items()

    # A mapping compares its values, and arrays do not compare to one truth value: results are equal to themselves.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The only output.

        Raises:
            InvalidInput: there are several, or none; the message names them.
        """
        if len(self._outputs) != 1:
            names = ", ".join(map(repr, self._outputs)) or "none"
            raise InvalidInput(
                f"Model {self.model_name!r} has {len(self._outputs)} outputs, not one: select one by name ({names})"
            )
        return next(iter(self._outputs.values()))

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> np.ndarray[Any, Any]:  # noqa: FBT001
        array = self.array
        if dtype is None or array.dtype == dtype:
            return array.copy() if copy else array
        if copy is False:
            raise ValueError(f"{array.dtype} cannot be converted to {dtype} without a copy")
        return array.astype(dtype)

    def __repr__(self) -> str:
        outputs = ", ".join(
            f"{name}: {datatype_from_numpy(array.dtype)} {list(array.shape)}" for name, array in self._outputs.items()
        )
        return f"InferResult({self.model_name} version {self.model_version}: {outputs})"


def with_outputs(result: InferResult, outputs: Mapping[str, np.ndarray[Any, Any]]) -> InferResult:
    """A result like this one, with other outputs."""
    return InferResult(
        outputs,
        model_name=result.model_name,
        model_version=result.model_version,
        request_id=result.request_id,
        parameters=result.parameters,
    )
