"""labels.txt: the names of the classes, one a line, in the order of a classifier's outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["class_outputs", "read_labels"]


def read_labels(path: Path) -> bytes:
    """The content of a label file.

    Raises:
        InvalidOption: it cannot be read, is empty, is not UTF-8 text or has an empty line.
    """
    try:
        content = path.read_bytes()
        lines = content.decode().splitlines()
    except OSError as error:
        raise InvalidOption(f"the labels {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"the labels {path} are not UTF-8 text: save them as one label a line") from error
    if not lines:
        raise InvalidOption(f"the labels {path} are empty: write one label a line")
    if not all(line.strip() for line in lines):
        number = next(number for number, line in enumerate(lines, start=1) if not line.strip())
        raise InvalidOption(f"line {number} of the labels {path} is empty: write one label a line")
    return content


def class_outputs(labels: bytes, answer: Arrays, *, batched: bool) -> tuple[str, ...]:
    """The outputs that have one number for each label.

    Args:
        labels: the content of labels.txt.
        answer: what the model answers to one sample.
        batched: whether the first dimension is the batch's.
    """
    count = len(labels.decode(errors="replace").splitlines())
    numbers = {name: array for name, array in answer.items() if array.dtype.kind != "O"}
    return tuple(
        name for name, array in numbers.items() if math.prod(array.shape[1:] if batched else array.shape) == count
    )
