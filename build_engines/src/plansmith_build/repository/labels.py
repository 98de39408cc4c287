"""labels.txt: the names of the classes, one a line, in the order of a classifier's outputs."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.model_repository import LABELS
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["class_outputs", "labels_of", "names_of_classes", "read_labels"]


def read_labels(path: Path) -> bytes:
    """The content of a label file.

    Returns:
        The lines, ended by LF, the only line end that Triton knows.

    Raises:
        InvalidOption: it cannot be read, is empty, is not UTF-8 text, has an empty line, or a control character in one.
    """
    try:
        text = read_regular(path).decode()
    except OSError as error:
        raise InvalidOption(f"the labels {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"the labels {path} are not UTF-8 text: save them as one label a line") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    if not lines:
        raise InvalidOption(f"the labels {path} are empty: write one label a line")
    if not all(line.strip() for line in lines):
        number = next(number for number, line in enumerate(lines, start=1) if not line.strip())
        raise InvalidOption(f"line {number} of the labels {path} is empty: write one label a line")
    if odd := next((line for line in lines if visible(line) != line), None):
        raise InvalidOption(
            f"line {lines.index(odd) + 1} of the labels {path} has a control character or another line end in it, "
            f"{visible(odd)!r}: end lines by LF, and leave such characters out"
        )
    return "".join(f"{line}\n" for line in lines).encode()


def labels_of(model: Path) -> bytes | None:
    """The content of a model's own labels.txt, None where it has none.

    Raises:
        InvalidOption: it cannot be read, or is a link: what it leads to would be published.
    """
    path = model / LABELS
    if not os.path.lexists(path):
        return None
    try:
        return read_regular(path, follow=False)
    except OSError as error:
        raise InvalidOption(f"{path} cannot be read: {error.strerror}: replace it with a file, or remove it") from error


def names_of_classes(labels: bytes | None) -> list[str] | None:
    """The lines of a model's labels.txt, None where it has none.

    Raises:
        InvalidOption: it is not UTF-8 text.
    """
    try:
        return None if labels is None else labels.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InvalidOption(f"the model's {LABELS} is not UTF-8 text: save it as such, or give --labels") from error


def class_outputs(labels: bytes, answer: Arrays, *, batched: bool) -> tuple[str, ...]:
    """The outputs that have one number for each label."""
    count = len(labels.decode(errors="replace").splitlines())
    numbers = {name: array for name, array in answer.items() if array.dtype.kind != "O"}
    return tuple(
        name for name, array in numbers.items() if math.prod(array.shape[1:] if batched else array.shape) == count
    )
