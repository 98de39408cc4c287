"""The classes of an answer, with the names of the model's label files, for `plansmith infer`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from plansmith_client.faces.model import Model
    from plansmith_client.protocol.classification import ClassScore

__all__ = ["classified", "labelled_outputs", "written"]

# What rounds to 1 %.
_LEAST = 0.005

Classes = dict[str, list[list["ClassScore"]]]


def labelled_outputs(model: Model) -> tuple[str, ...]:
    """The outputs whose elements the model names in a label file; none if the server does not tell."""
    try:
        outputs = model.config().get("output") or []
        return tuple(str(output["name"]) for output in outputs if output.get("label_filename"))
    except (ClientError, LookupError, TypeError, AttributeError):
        # The configuration is an extension of Triton, and access may be restricted.
        return ()


def classified(model: Model, arrays: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str], top: int) -> Classes:
    """The `top` classes of each row, for each of these outputs.

    Raises:
        ClientError: as for `Model.classify`.
    """
    # By position: an input may be called like an argument of `classify`. An optional input that is missing ends them.
    declared = [spec.name for spec in model.metadata.inputs]
    positional = list(itertools.takewhile(arrays.__contains__, declared))
    named: dict[str, Any] = {name: array for name, array in arrays.items() if name not in positional}
    values = [arrays[name] for name in positional]
    return {output: model.classify(*values, top=top, output=output, **named) for output in outputs}


def written(classes: Sequence[ClassScore], *, whole: bool) -> str:
    """The classes of one row in a line, as percentages where all scores lie from 0 to 1.

    Args:
        classes: of the row, the best first.
        whole: show those that round to 0 %, too.
    """
    shares = all(0 <= found.score <= 1 for found in classes)
    if shares and not whole:
        classes = [found for place, found in enumerate(classes) if place == 0 or found.score >= _LEAST]
    return "; ".join(
        f"{found.label or f'class {found.index}'}, "
        + (f"{found.score:.0%}".replace("%", " %") if shares else f"{found.score:.4g}")
        for found in classes
    )
