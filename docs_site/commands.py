"""The reference of all commands as a page, from the commands themselves."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from plansmith_client.cli import KNOWN_COMMANDS, application_command

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["page"]

HEAD = """# Commands

This page is made from the commands themselves; every one says the same with `--help`. Those that print a result take
`--json`: standard output is then one JSON document. Exit codes: 0 done, 1 the work failed, 2 the command line or the
input was wrong, 3 a check was not met, 130 Ctrl-C. With `--json` an error (1 or 2) is JSON, too: the last line of
standard error is `{"error": {"message": "...", "exit_code": 2}}`. Defaults of a project stand in
[plansmith.toml](projects.md).
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in KNOWN_COMMANDS:
        command = application_command(name).commands[name]
        inner = getattr(command, "commands", None)
        if inner is None:
            parts += _command(f"plansmith {name}", command)
        else:
            parts.append(f"## plansmith {name}\n\n{_text(command)}\n")
            for word, sub_command in inner.items():
                parts += _command(f"plansmith {name} {word}", sub_command)
    return "\n".join(parts)


def _command(words: str, command: Any) -> Iterator[str]:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [
        parameter for parameter in command.params if parameter.param_type_name == "option" and not parameter.hidden
    ]
    yield f"## {words}\n"
    yield f"{_text(command)}\n"
    named = " ".join(_argument(argument) for argument in arguments)
    yield f"```text\n{' '.join(filter(None, (words, '[OPTIONS]', named)))}\n```\n"
    rows = [("`" + _argument(argument) + "`", _help(argument)) for argument in arguments]
    rows += [(_spelling(option), _help(option)) for option in options]
    yield "| | |\n|---|---|"
    yield "\n".join(f"| {name} | {help_} |" for name, help_ in rows) + "\n"


def _text(command: Any) -> str:
    # Of what follows a form feed click shows nothing.
    return inspect.cleandoc(command.help or "").split("\f")[0]


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name).strip("[]{}")
    shown = f"{name}..." if argument.nargs == -1 else name
    return shown if argument.required else f"[{shown}]"


def _spelling(option: Any) -> str:
    words = ", ".join(f"`{spelling}`" for spelling in option.opts)
    return f"{words} {option.metavar or ''}".rstrip().replace("|", "\\|")


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _help(parameter: Any) -> str:
    said = " ".join((getattr(parameter, "help", None) or "").split())
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    default = _plain(default) if default is not None else None
    flag = getattr(parameter, "is_flag", False)
    if default not in (None, "", [], ()) and not callable(default) and not flag and not parameter.required:
        said += f" Default: {default if default != '.' else 'this folder'}."
    return said.replace("|", "\\|").replace("<", "&lt;")
