"""The console that the server's words go to: names and log lines cannot act on a terminal."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

__all__ = ["Terminal", "visible"]

# Controls, formats such as right-to-left overrides, line and paragraph separators, surrogates.
HIDDEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))


class Terminal(Console):
    """rich's console, which writes out the control and direction characters of others' names and of log lines.

    The same as plansmith_client's, which this distribution does without.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders it, each text made visible; what rich itself does to the cursor stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def visible(text: str) -> str:
    """Text of one or more lines with its control and direction characters written out."""
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if character != "\n" and unicodedata.category(character) in HIDDEN
        else character
        for character in text
    )
