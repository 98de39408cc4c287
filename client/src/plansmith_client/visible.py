"""What others have named, as it is shown: text without characters that a terminal, a page or a log would act on."""

from __future__ import annotations

import re

__all__ = ["markdown_text", "visible"]

# What ends or reorders a line, or is no character at all: controls, formats such as right-to-left overrides, line and
# paragraph separators, surrogates.
_HIDDEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))


def visible(text: str, *, keep: str = "") -> str:
    r"""Text with its control and direction characters written out: `\x1b` for the one that begins an escape sequence.

    Args:
        text: any text, also what was no text: surrogates stand for bytes that are not UTF-8.
        keep: characters that stay as they are, such as the line ends of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    import unicodedata  # noqa: PLC0415 - seldom

    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(character) in _HIDDEN and character not in keep
        else character
        for character in text
    )


def markdown_text(text: str) -> str:
    """Text for a line of Markdown, in which nothing is markup, a mention, or the end of the line."""
    one_line = visible(re.sub(r"\s+", " ", text).strip()).replace("&", "&amp;")
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~>$-])", r"\\\1", one_line)
    return escaped.replace("<", "&lt;").replace("@", "@<!-- -->")
