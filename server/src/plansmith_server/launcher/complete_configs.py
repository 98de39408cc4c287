"""Whether any configuration of a repository leaves something for a backend to complete.

Triton starts a process for each model to complete its configuration, before the one that serves it, and has one switch
for all models. Where every configuration is complete, as those of a build are, half of a server's start is saved.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from plansmith_server.launcher.backend_directory import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Message", "is_complete", "read_config", "text_of"]

# Protobuf's text format: comments, strings, brackets and separators, and words.
TOKEN = re.compile(r"""\#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}\[\]<>:,;]|[^\s{}\[\]<>:,;"'\#]+""")
CLOSING = {"{": "}", "<": ">"}

Message = dict[str, list[Any]]


def is_complete(config: Path) -> bool:
    """Whether this configuration names one of this package's backends, and the type and dims of each tensor.

    What cannot be read here counts as incomplete: Triton says what is wrong with it.
    """
    message = read_config(config)
    known = text_of(message, "backend") in BACKENDS or text_of(message, "platform") == "ensemble"
    return known and all(
        message.get(key) and all(isinstance(tensor, dict) and _is_described(tensor) for tensor in message[key])
        for key in ("input", "output")
    )


def _is_described(tensor: Message) -> bool:
    return tensor.get("data_type", ["TYPE_INVALID"])[-1] != "TYPE_INVALID" and bool(tensor.get("dims"))


def read_config(config: Path) -> Message:
    """The fields of a configuration, each with all its values; none where it cannot be read here."""
    try:
        tokens = [token for token in TOKEN.findall(config.read_text(encoding="utf-8")) if not token.startswith("#")]
        return _message(iter(tokens), end="")
    except (OSError, ValueError, RecursionError):
        return {}


def text_of(message: Message, key: str) -> str:
    """A field that holds text, without its quotes; empty where it is not there."""
    return str(message.get(key, [""])[-1]).strip("\"'")


def _message(tokens: Iterator[str], end: str) -> Message:
    """The fields up to the token `end`, each with all its values."""
    fields: Message = {}
    for token in tokens:
        if token == end:
            return fields
        if token in (",", ";"):
            continue
        if not token.isidentifier():
            # Such as the second part of a text in two: what comes after it would be taken for its value.
            raise ValueError(f"{token} is not the name of a field")
        following = _next(tokens)
        if following == ":":
            following = _next(tokens)
        values = fields.setdefault(token, [])
        if following == "[":
            values.extend(_items(tokens))
        else:
            values.append(_value(following, tokens))
    if end:
        raise ValueError("a bracket is not closed")
    return fields


def _items(tokens: Iterator[str]) -> Iterator[Any]:
    while (token := _next(tokens)) != "]":
        if token != ",":  # noqa: S105 - a separator
            yield _value(token, tokens)


def _next(tokens: Iterator[str]) -> str:
    token = next(tokens, None)
    if token is None:
        raise ValueError("it ends within a field")
    return token


def _value(token: str, tokens: Iterator[str]) -> Any:
    return _message(tokens, CLOSING[token]) if token in CLOSING else token
