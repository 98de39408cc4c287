"""Digits in the terminal, with what a classifier took them for; the terminal as an SVG; digits as files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["save_images", "save_terminal", "terminal_picture"]

WHITE = 16.0
SHADES = " ░▒▓█"
_SHOWN_ALONE = 3


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


def save_images(images: NDArray[np.float32], labels: NDArray[np.int64], folder: Path) -> None:
    """Write the images as files that a build takes, images/CLASS/NUMBER.png, and the first three as three.png.

    Args:
        images: FP32 [N, 8, 8] with values 0 to 16.
        labels: INT64 [N].
        folder: where to write.
    """
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "images" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.rint(image * (255 / WHITE)).astype(np.uint8))
        picture.save(path)
        if label == _SHOWN_ALONE and not (folder / "three.png").exists():
            picture.save(folder / "three.png")


def save_terminal(console: Console, path: Path, title: str = "plansmith demo") -> None:
    """Write what a recording console has shown so far as an SVG that fetches nothing.

    Args:
        console: made with `record=True`.
        path: the file to write.
        title: of the terminal's window.
    """
    # What rich writes loads a font from the network.
    svg = console.export_svg(title=title, clear=False)
    path.write_text(re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def _shades(image: NDArray[np.float32]) -> Text:
    """The image as characters, two a pixel, so that it shows in a terminal without colours too."""
    levels = np.rint(image / WHITE * (len(SHADES) - 1)).astype(int)
    return Text("\n".join("".join(SHADES[level] * 2 for level in row) for row in levels))
