"""The answers of pipelines for `plansmith infer`: labels with their probabilities, and boxes drawn into the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.commands.classes import written
from plansmith_client.commands.image_files import decoded_image
from plansmith_client.errors import InvalidInput
from plansmith_client.protocol.classification import ClassScore
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_client.protocol.results import InferResult

__all__ = ["draw_boxes", "prediction_lines"]

_COLOURS = ("#e6194b", "#0082c8", "#3cb44b", "#f58231", "#911eb4", "#008080")


def prediction_lines(result: InferResult, sources: Sequence[str]) -> list[str]:
    """What each row is, a line for each; nothing where the answer has no `label` and `probability`.

    Args:
        result: of a model that ends in a step `classes` or `boxes`.
        sources: what each row was sent for; where there are not as many, rows are counted.
    """
    if not _are_labels(result):
        return []
    rows = len(result["label"])
    if len(sources) != rows:
        sources = [f"row {number}" for number in range(rows)]
    boxes = _boxes(result)
    lines = []
    for number, source in enumerate(sources):
        found = _found(result, number)
        if boxes is None:
            lines.append(f"{source}: {written([score for _, score in found], whole=False) if found else 'nothing'}")
            continue
        lines += [
            f"{source}: {written([score], whole=True)} at {','.join(f'{side:.0f}' for side in boxes[number, place])}"
            for place, score in found
        ] or [f"{source}: nothing"]
    return lines


def draw_boxes(image: Path, result: InferResult, output: Path) -> None:
    """Draw on the image that was sent the boxes of its result's first row, with their labels.

    Raises:
        InvalidInput: the result has no boxes, or a file cannot be read or written.
    """
    boxes = _boxes(result) if _are_labels(result) else None
    if boxes is None:
        raise InvalidInput(f"--draw needs a model that gives boxes: {result.model_name!r} gives {', '.join(result)}")
    from PIL import ImageDraw  # noqa: PLC0415 - heavy, and only for images

    picture = decoded_image(image).convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(2, max(picture.size) // 300)
    size = max(10, max(picture.size) // 60)
    labels: dict[str, str] = {}
    for place, score in _found(result, 0):
        # What lies beyond the image is not seen, and Pillow counts no further.
        across, down = (np.clip(boxes[0, place, axis::2], -1.0, picture.size[axis] + 1.0) for axis in (0, 1))
        if np.isnan([across, down]).any():
            continue
        (left, right), (top, bottom) = sorted(across.tolist()), sorted(down.tolist())
        colour = labels.setdefault(score.label, _COLOURS[len(labels) % len(_COLOURS)])
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        words = visible(written([score], whole=True))
        frame = pen.textbbox((left, max(0.0, top - size - width)), words, font_size=size)
        pen.rectangle(frame, fill=colour)
        pen.text(frame[:2], words, fill="white", font_size=size, anchor="lt")
    try:
        picture.save(output)
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written: {error.strerror or error}") from error


def _found(result: InferResult, row: int) -> list[tuple[int, ClassScore]]:
    found = enumerate(zip(result["label"][row], result["probability"][row], strict=True))
    # Rows are filled up with empty labels.
    return [
        (place, ClassScore(index=place, score=float(share), label=label.decode(errors="replace")))
        for place, (label, share) in found
        if label
    ]


def _are_labels(result: InferResult) -> bool:
    """Whether the result is one of a step `classes` or `boxes`: other models have outputs of these names, too."""
    label, share = result.get("label"), result.get("probability")
    return (
        label is not None
        and share is not None
        and label.ndim == 2  # noqa: PLR2004 - rows and places
        and label.dtype == object
        and label.shape == share.shape
        and share.dtype.kind == "f"
    )


def _boxes(result: InferResult) -> np.ndarray[Any, Any] | None:
    boxes = result.get("box")
    return boxes if boxes is not None and boxes.shape == (*result["label"].shape, 4) and boxes.dtype != object else None
