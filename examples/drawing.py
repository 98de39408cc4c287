"""What an example did, as a picture: bars in a terminal, or images with what a classifier takes them for."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.text import Text

from plansmith.demo.picture import save_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["save_bars", "save_classified"]

_BAR = 32
_MARGIN = 16


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
