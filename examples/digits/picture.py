"""Show digits with what a classifier took them for: in the terminal, and as a PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WHITE = 16.0


def terminal_picture(
    images: NDArray[np.float32], labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> Columns:
    """Each image as a panel of half blocks, two pixels a character, green where the classifier is right.

    Args:
        images: FP32 [N, 8, 8] with values 0 to 16.
        labels: INT64 [N].
        probabilities: FP32 [N, 10].
    """
    panels = []
    for image, label, row in zip(images, labels, probabilities, strict=True):
        guess = int(row.argmax())
        title = f"{guess}  {row[guess]:.0%}" if guess == label else f"{guess}, is {label}"
        panels.append(Panel.fit(_half_blocks(image), title=title, style="green" if guess == label else "bold red"))
    return Columns(panels, padding=(0, 1))


def save_png(
    path: Path,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    *,
    columns: int = 8,
) -> None:
    """Write the images with predictions below them, mistakes in red.

    Args:
        path: the file to write.
        images: FP32 [N, 8, 8] with values 0 to 16.
        labels: INT64 [N].
        probabilities: FP32 [N, 10].
        columns: images a row.
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.85 * rows), squeeze=False, dpi=120)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, label, row in zip(axes.flat, images, labels, probabilities, strict=False):
        guess = int(row.argmax())
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=WHITE)
        right = guess == label
        caption = f"{guess}   {row[guess]:.1%}" if right else f"{guess}   {row[guess]:.1%}\nis {label}"
        axis.set_title(caption, fontsize=10, color="black" if right else "crimson", y=-0.28 if right else -0.42)
    figure.suptitle("Held-out digits, as the served model reads them", fontsize=13)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _half_blocks(image: NDArray[np.float32]) -> Text:
    text = Text()
    shades = np.rint(image / WHITE * 255).astype(int)
    for upper, lower in zip(shades[::2], shades[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({top},{top},{top}) on rgb({bottom},{bottom},{bottom})")
        text.append("\n")
    text.rstrip()
    return text
