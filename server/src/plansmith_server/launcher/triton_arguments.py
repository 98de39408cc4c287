"""What a user passes on to the tritonserver binary: `--option=value` or `--option value`."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["is_off", "resolve_paths", "values_of"]

# What is a path, behind the option and, in --trace-config, behind the name of the setting.
PATH = re.compile(
    r"--(?:(?:model-repository|model-store|log-file|trace-file|(?:backend|cache|repoagent)-directory"
    r"|grpc-(?:server-cert|server-key|root-cert))=|trace-config=\w+,file=)(?P<path>.+)"
)


def values_of(option: str, words: Sequence[str]) -> list[str]:
    """Every value that `words` give to `option`, such as "--allow-http"."""
    return [text.partition("=")[2] for _, text in _assignments(words) if text.startswith(f"{option}=")]


def is_off(option: str, words: Sequence[str]) -> bool:
    """Whether `words` turn the switch `option`, which is on by default, off; the last one counts."""
    return any(value.lower() not in ("true", "1") for value in values_of(option, words)[-1:])


def resolve_paths(words: Sequence[str]) -> list[str]:
    """`words` with each relative path made absolute: Triton is started in another working folder."""
    resolved = []
    for word, text in _assignments(words):
        found = PATH.fullmatch(text)
        resolved.append(
            word if found is None else word.removesuffix(found["path"]) + str(Path(found["path"]).absolute())
        )
    return resolved


def _assignments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word, and the same as `--option=value` where its value is this word."""
    for previous, word in pairwise(("", *words)):
        yield word, word if word.startswith("--") else f"{previous}={word}"
