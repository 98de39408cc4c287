"""The words of `plansmith build` as a version's manifest keeps them, so that `plansmith upgrade` can say them again."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from plansmith_build.errors import InvalidOption
from plansmith_build.fetching import without_secrets
from plansmith_client.project_file import would_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

__all__ = ["recipe_of", "refuse_unsafe"]

# The parameters that are of this machine or of one call, and not of how the version is made.
_OF_THE_CALL = {
    *("repository", "staging", "sign_key", "timing_cache", "memory_limit", "time_limit", "replace", "as_json"),
    "source_sha256",
}
_SECRET = "?..."  # noqa: S105 - stands for one


def recipe_of(context: typer.Context) -> tuple[str, ...]:
    """The model and each option that was given, by plansmith.toml too, each option as one word `--name=value`."""
    words = [_source(context.params["model"])]
    for name, option in _options(context.command).items():
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT":
            continue
        value = context.params[name]
        if value is True:
            words.append(option)
        # `in (None, False)` would drop 0.
        elif value is not None and value is not False:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [f"{option}={_from_here(str(each.value if isinstance(each, Enum) else each))}" for each in values]
    return tuple(words)


def refuse_unsafe(recipe: Sequence[str], model: str, command: Any, repository: Path) -> None:
    """Raise for a recipe that would run code or write elsewhere: a repository may come from somebody else.

    Raises:
        InvalidOption: it names a Python function or an option that no recipe has, or is not complete.
    """
    if not recipe or recipe[0].startswith("-"):
        raise InvalidOption(
            f"the manifest of {model} does not say how it was built: build it again with plansmith build MODEL.onnx "
            f"--name {model} and its options"
        )
    if recipe[0].endswith(_SECRET):
        raise InvalidOption(f"{model} was built from {recipe[0]}, a signed URL: build it again with a new one")
    options = set(_options(command).values())
    for word in recipe[1:]:
        option, _, value = word.partition("=")
        if option not in options or would_call(option.removeprefix("--"), value):
            words = shlex.join(["build", *recipe, f"--name={model}", f"--repository={repository}"])
            raise InvalidOption(
                f"{model} was built with {word!r}, which would run code or write elsewhere: if you trust it, run it "
                f"yourself: plansmith {words}"
            )


def _options(command: Any) -> dict[str, str]:
    """The options that a recipe may have, by the names of click's parameters."""
    return {
        str(parameter.name): max(parameter.opts, key=len)
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name not in _OF_THE_CALL
    }


def _source(model: str) -> str:
    """The model without what is secret; what was cut off a signed URL is marked."""
    shown = without_secrets(model)
    return f"{shown}{_SECRET}" if shown != model and urlsplit(model).query else _from_here(shown)


def _from_here(word: str) -> str:
    """A path in the current folder without the folders above it, which are this machine's; anything else as it is."""
    path, here = Path(word), Path.cwd()
    # `./` keeps apart what is called as a word with a meaning of its own, such as random.
    return f"./{path.relative_to(here)}" if path.is_absolute() and path.is_relative_to(here) else word
