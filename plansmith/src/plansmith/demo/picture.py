"""What a model did, as a picture: digits and bars in a terminal, the terminal as an SVG, images with their classes."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["save_bars", "save_classified", "save_images", "save_terminal", "terminal_picture"]

WHITE = 16.0
SHADES = " ░▒▓█"
_SHOWN_ALONE = 3
_BAR = 32
_MARGIN = 16


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


def save_bars(groups: Mapping[str, Sequence[tuple[str, float, str]]], path: Path, title: str) -> None:
    """Write bars below headings as an SVG.

    Args:
        groups: by heading, what each bar is called, how long it is, at least 0, and what stands behind it.
        path: the file to write.
        title: of the terminal's window.
    """
    bars = [bar for group in groups.values() for bar in group]
    most = max(value for _, value, _ in bars)
    wide = max(len(name) for name, _, _ in bars)
    lines: list[Text] = []
    for heading, group in groups.items():
        lines.append(Text(heading, "bold"))
        for name, value, said in group:
            whole, half = divmod(round(2 * _BAR * value / most), 2)
            bar = "█" * whole + "▌" * half
            lines.append(Text.assemble(f"{name:{wide}}  ", (f"{bar:{_BAR}}", "blue"), f"  {said}"))
    # The window has three buttons beside the title.
    width = 1 + max(len(title) + 9, *map(len, lines))
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(*lines, sep="\n")
    save_terminal(console, path, title)


def save_classified(pictures: Sequence[tuple[Image.Image, str, float, str]], path: Path, columns: int) -> None:
    """Write images in lines as one image, each above what a classifier takes it for; a red caption is a mistake.

    Args:
        pictures: images of one size; what each is taken for, how probable that is said to be, 0 to 1, and what it is.
        path: the file to write.
        columns: how many images stand in a line.
    """
    width, height = (2 * side for side in pictures[0][0].size)
    across, down = width + _MARGIN, height + 2 * _MARGIN
    lines = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * across + _MARGIN, lines * down + _MARGIN), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(_MARGIN - 2)
    for number, (image, guess, probability, label) in enumerate(pictures):
        left, top = _MARGIN + number % columns * across, _MARGIN + number // columns * down
        whole.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, top))
        caption = f"{guess}, {probability:.0%}" if guess == label else f"{guess}, is {label}"
        pen.text((left, top + height), caption, fill="black" if guess == label else "red", font=font)
    whole.save(path, optimize=True)


def _shades(image: NDArray[np.float32]) -> Text:
    """The image as characters, two a pixel, so that it shows in a terminal without colours too."""
    levels = np.rint(image / WHITE * (len(SHADES) - 1)).astype(int)
    return Text("\n".join("".join(SHADES[level] * 2 for level in row) for row in levels))
