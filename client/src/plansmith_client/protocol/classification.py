"""Classes instead of tensors: Triton's classification extension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_client.errors import ProtocolError

if TYPE_CHECKING:
    from plansmith_client.protocol.results import InferResult

__all__ = ["ClassScore", "classes_from_result"]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of an answer.

    Attributes:
        score: the output's value for the class, as the server writes it.
        index: the class's place in the output.
        label: its name, from the model's label file; empty if it has none.

    Example:
        ```python
        best = client.model("digits").classify(images, top=3)[0][0]
        print(best.label, best.score)
        ```
    """

    score: float
    index: int
    label: str


def classes_from_result(result: InferResult, output: str) -> list[list[ClassScore]]:
    """The classes of each row, the largest first.

    Raises:
        ProtocolError: the output does not hold `score:index[:label]`.
    """
    rows = result[output]
    try:
        per_row = rows.reshape(-1, rows.shape[-1]) if rows.ndim else rows.reshape(1, 1)
        return [[_class(element.decode()) for element in row] for row in per_row.tolist()]
    except (AttributeError, ValueError) as error:
        raise ProtocolError(
            f"Model {result.model_name!r}, output {output!r}: the server does not classify ({error}); "
            "it may not know Triton's classification extension"
        ) from error


def _class(text: str) -> ClassScore:
    score, index, *label = text.split(":", 2)
    return ClassScore(float(score), int(index), label[0] if label else "")
