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
SHADES = " ░▒▓█"


def terminal_picture(
    images: NDArray[np.float32], labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> Columns:
    """Each image as a panel, titled with what the classifier takes it for; a red one is a mistake.

    Args:
        images: FP32 [N, 8, 8] with values 0 to 16.
        labels: INT64 [N].
        probabilities: FP32 [N, 10].
    """
    panels = []
    for image, label, row in zip(images, labels, probabilities, strict=True):
        guess = int(row.argmax())
        title = f"{guess}  {row[guess]:.0%}" if guess == label else f"{guess}, is {label}"
        panels.append(Panel.fit(_shades(image), title=title, border_style="green" if guess == label else "bold red"))
    return Columns(panels)


def save_png(
    path: Path,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    *,
    columns: int = 8,
) -> None:
    """Write the images with their predictions, mistakes in red.

    Args:
        path: the file to write.
        images: FP32 [N, 8, 8] with values 0 to 16.
        labels: INT64 [N].
        probabilities: FP32 [N, 10].
        columns: images a row.
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.9 * rows + 0.4), squeeze=False, dpi=120)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, label, row in zip(axes.flat, images, labels, probabilities, strict=False):
        guess = int(row.argmax())
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=WHITE)
        caption = f"{guess}   {row[guess]:.1%}" if guess == label else f"{guess}, is {label}"
        axis.set_title(caption, fontsize=10, color="black" if guess == label else "crimson")
    figure.suptitle("Held-out digits, as the served model reads them", fontsize=13)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _shades(image: NDArray[np.float32]) -> Text:
    """The image as characters, two a pixel, so that it shows in a terminal without colours too."""
    levels = np.rint(image / WHITE * (len(SHADES) - 1)).astype(int)
    return Text("\n".join("".join(SHADES[level] * 2 for level in row) for row in levels))
