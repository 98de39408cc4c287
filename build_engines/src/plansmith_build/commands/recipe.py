"""The words of `plansmith build` as a version's manifest keeps them, so that `plansmith upgrade` can say them again."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption
from plansmith_build.fetching import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

__all__ = ["recipe_of", "refuse_unsafe"]

# Of this machine or of one call, and not of how the version is made.
_OF_THE_CALL = {"repository", "staging", "sign_key", "timing_cache", "memory_limit", "time_limit", "replace", "as_json"}
_MAY_CALL = ("--data", "--validation-data", "--samples", "--metric")


def recipe_of(context: typer.Context) -> tuple[str, ...]:
    """The model and each option that was given, by plansmith.toml too, each option as one word `--name=value`."""
    words = [without_secrets(context.params["model"])]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name == "model" or name in _OF_THE_CALL or source is None or source.name == "DEFAULT":
            continue
        option, value = max(parameter.opts, key=len), context.params[name]
        if value is True:
            words.append(option)
        elif value not in (None, False):
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [f"{option}={each.value if isinstance(each, Enum) else each}" for each in values]
    return tuple(words)


def refuse_unsafe(recipe: Sequence[str], model: str) -> None:
    """Raise for a recipe that would run code or write elsewhere: a repository may come from somebody else.

    Raises:
        InvalidOption: it names a Python function, or an option that no recipe has.
    """
    forbidden = {f"--{name.replace('_', '-')}" for name in _OF_THE_CALL}
    for word in recipe[1:]:
        option, _, value = word.partition("=")
        calls = option in _MAY_CALL and ":" in value and not value.startswith("random:")
        if calls or option in forbidden or not option.startswith("--"):
            raise InvalidOption(
                f"{model} was built with {word!r}, which would run code or write elsewhere: if you trust it, run it "
                f"yourself: plansmith build {' '.join(recipe)}"
            )
    if not recipe or recipe[0].startswith("-"):
        raise InvalidOption(
            f"the manifest of {model} does not say how it was built: build it again with plansmith build MODEL.onnx "
            f"--name {model} and its options"
        )
