"""plansmith.toml in the current folder: defaults for options, so that a project's commands are short and the same.

A key at the top is for every command that has such an option; a table is for the command of its name. What stands on
the command line wins. The file may come with a repository that somebody else wrote, so it cannot name what runs code
or what opens a server to other machines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    import click

__all__ = ["PROJECT_FILE", "PYTHON_FUNCTION", "project_defaults", "would_call"]

PROJECT_FILE = "plansmith.toml"
PYTHON_FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")
"""`module:function`, which is imported and called where an option takes one."""
_OPENS = ("host", "open-admin", "triton-arguments", "allow-code")
# What takes a Python function.
_MAY_CALL = ("model", "data", "validation-data", "samples", "metric")


def project_defaults(command: click.Command, called: str) -> dict[str, Any]:
    """What click takes as `default_map`: of plansmith.toml, what the command that is called has options for.

    Args:
        command: the application, with the real options of `called`.
        called: the name of the sub-command.

    Raises:
        InvalidInput: the file is not TOML, names an option that the command does not have, or one that it may not name.
    """
    path = Path(PROJECT_FILE)
    if not path.is_file():
        return {}
    content = _read(path)
    for key, value in _flat(content):
        if key in _OPENS:
            raise InvalidInput(f"{path}: {key} opens a server to others: give it on the command line")
        if any(would_call(key, str(word)) for word in (value if isinstance(value, list) else [value])):
            raise InvalidInput(f"{path}: {key} = {value!r} would run code: give it on the command line")
    commands = getattr(command, "commands", {})
    for name in content:
        if isinstance(content[name], dict) and name not in commands:
            raise InvalidInput(f"{path}: [{name}] is not the name of a command of plansmith")
    general = {key: value for key, value in content.items() if not isinstance(value, dict)}
    own = content.get(called, {})
    return {called: _defaults(commands[called], general, own, path)} if called in commands else {}


def would_call(option: str, value: str) -> bool:
    """Whether an option, without its dashes, takes the value as a Python function to import and call."""
    word = value.rpartition("=")[2] if option == "metric" else value
    return option in _MAY_CALL and PYTHON_FUNCTION.fullmatch(word) is not None


def _read(path: Path) -> dict[str, Any]:
    try:
        import tomllib  # noqa: PLC0415 - Python 3.11
    except ImportError as error:
        raise InvalidInput(f"{path} needs Python 3.11 or newer: give its options on the command line") from error
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error


def _flat(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flat(value) if isinstance(value, dict) else [(key, value)]
    return found


def _defaults(
    command: click.Command, general: Mapping[str, Any], own: Mapping[str, Any], path: Path, *, group: str = ""
) -> dict[str, Any]:
    """By the names of click's parameters; of `bench`, by those of its sub-commands."""
    if hasattr(command, "list_commands"):
        return _OfSubCommands(command, general, own, path)
    table = f"{group}.{command.name}" if group else str(command.name)
    # An option by its longest spelling, an argument by its name.
    names = {
        max(parameter.opts, key=len).lstrip("-").replace("_", "-").lower(): parameter for parameter in command.params
    }
    unknown = [key for key in own if key not in names]
    if unknown:
        raise InvalidInput(
            f"{path}: [{table}] has {unknown[0]!r}, and plansmith {table.replace('.', ' ')} has no such option: "
            f"it has {', '.join(sorted(names))}"
        )
    defaults = {}
    for key, value in {**general, **own}.items():
        if key in names:
            parameter = names[key]
            defaults[str(parameter.name)] = value if isinstance(value, (list, bool)) else str(value)
    return defaults


class _OfSubCommands(dict[str, Any]):
    """Defaults of a group: those of a sub-command are found when it is called, because only that one is imported."""

    def __init__(self, group: Any, general: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> None:
        import typer  # noqa: PLC0415 - of the extra cli

        self._group, self._own, self._path = group, own, path
        self._context = typer.Context(group)
        self._shared = {**general, **{key: value for key, value in own.items() if not isinstance(value, dict)}}
        names = group.list_commands(self._context)
        flat = [name for name in names if not isinstance(own.get(name, {}), dict)]
        if flat:
            table = f"[{group.name}.{flat[0]}]"
            raise InvalidInput(f"{path}: [{group.name}] has a value for {flat[0]!r}: make it a table, {table}")
        unknown = [key for key, value in own.items() if isinstance(value, dict) and key not in names]
        if unknown:
            raise InvalidInput(
                f"{path}: plansmith {group.name} has no command {unknown[0]!r}: it has {', '.join(names)}"
            )

    def get(self, name: str, default: Any = None) -> Any:
        """As click asks, for the sub-command that is called."""
        command = self._group.get_command(self._context, name)
        if not command:
            return default
        return _defaults(command, self._shared, self._own.get(name, {}), self._path, group=str(self._group.name))
