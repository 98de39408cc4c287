"""The `plansmith` command: joins the sub-commands that the installed distributions provide.

A sub-command is an entry point of the group `plansmith.commands`: a function with typer's annotations, or a
`typer.Typer` with sub-commands of its own. Only the one that is called is imported, so that `plansmith infer` never
pays for onnxruntime or a server.

A failure that a user can act on is an exception with an integer attribute `exit_code`, and is shown as one sentence.
Any other exception is a fault of plansmith: one sentence, too, and the traceback where PLANSMITH_DEBUG is set.
With --json either is one line of JSON on standard error, `{"error": {"message": ..., "exit_code": ...}}`, and its last.
Exit codes: 0 done, 1 the work failed, 2 the command line or the input was wrong, 3 a check failed, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from contextvars import ContextVar
from functools import partial
from importlib.metadata import entry_points, version
from io import TextIOWrapper
from itertools import pairwise
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import typer

__all__ = ["application_command", "main", "run", "show_plain_types"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEBUG = "PLANSMITH_DEBUG"
# Set by the scripts that --install-completion writes.
_COMPLETION = "_PLANSMITH_COMPLETE"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
# What typer calls types, in the words of a command line.
_TYPES = {
    "str": "TEXT",
    "path": "PATH",
    "dir": "FOLDER",
    **dict.fromkeys(("int", "int range"), "N"),
    **dict.fromkeys(("float", "float range"), "NUMBER"),
}
# Names in a file from outside can be of any length.
_MOST_CHARACTERS = 4000
_ERRORS_AS_JSON = ContextVar("errors as JSON", default=False)
# Commands in a docstring.
_EXAMPLES = re.compile(r"^    plansmith .*(?:\n    .*)*", re.MULTILINE)


class KnownCommand(NamedTuple):
    """A sub-command of plansmith itself: the distribution that provides it, and its line in `plansmith --help`."""

    distribution: str
    summary: str


# Kept here so that `plansmith --help` neither imports a distribution nor hides the ones that are not installed.
KNOWN_COMMANDS = {
    "demo": KnownCommand("plansmith", "Build, serve and ask a small model, and show what it saw."),
    "doctor": KnownCommand("plansmith", "Try what this machine has to build and serve with."),
    "init": KnownCommand("plansmith", "Begin a project: plansmith.toml, a workflow for CI and a Containerfile."),
    "build": KnownCommand("plansmith-build", "Build a verified version from an ONNX file and publish it."),
    "check": KnownCommand("plansmith-build", "Find out what each engine says to an ONNX file."),
    "inspect": KnownCommand("plansmith-build", "Show what a model repository holds."),
    "verify": KnownCommand("plansmith-build", "Check the files and configurations of a model repository."),
    "rollback": KnownCommand("plansmith-build", "Publish an old version of a model again."),
    "upgrade": KnownCommand("plansmith-build", "Rebuild plans and engines that this machine's TensorRT cannot run."),
    "prune": KnownCommand("plansmith-build", "Remove old versions of a model."),
    "export": KnownCommand("plansmith-build", "Write a PyTorch, scikit-learn or Keras model as ONNX, and check it."),
    "serve": KnownCommand("plansmith-server", "Serve a model repository with Triton."),
    "infer": KnownCommand("plansmith-client", "Send one request to a served model."),
    "models": KnownCommand("plansmith-client", "List the models of a server."),
    "health": KnownCommand("plansmith-client", "Tell whether a server, or a model of it, is ready."),
    "stats": KnownCommand("plansmith-client", "Show what a server has counted of its models."),
    "ui": KnownCommand("plansmith-client", "Try a served model on a local page."),
    "load": KnownCommand("plansmith-client", "Load a model on a server."),
    "unload": KnownCommand("plansmith-client", "Unload a model from a server."),
    "bench": KnownCommand("plansmith-perf", "Measure how much a served model can take."),
    "capacity": KnownCommand("plansmith-perf", "Tell how many replicas a rate takes."),
    "locust": KnownCommand("plansmith-perf", "Load a served model with Locust: on a web page, from many machines."),
    "tune": KnownCommand("plansmith-perf", "Find the configuration with the highest throughput inside an SLO."),
}
# What stands over the commands of a distribution; over those of the other two, "Serve and ask".
_HEADINGS = {"plansmith": "Begin", "plansmith-build": "Build", "plansmith-perf": "Measure"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `plansmith` command and exit.

    Args:
        arguments: the words after `plansmith`; by default those of the process.

    Raises:
        SystemExit: always, with one of the exit codes described in the module.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _ERRORS_AS_JSON.set(_asks_for_json(words))
    for stream in (sys.stdout, sys.stderr):
        # What a stream's encoding does not have is written as an escape sequence, as in Python's own tracebacks.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    run(lambda: _call(words))


def _asks_for_json(words: Sequence[str]) -> bool:
    options = words[: words.index("--")] if "--" in words else words
    return "--json" in options or "--format=json" in options or ("--format", "json") in pairwise(options)


def run(work: Callable[[], object]) -> NoReturn:
    """Do a command's work, show what fails as one sentence, and exit.

    Raises:
        SystemExit: always, with one of the exit codes described in the module.
    """
    try:
        work()
    except BrokenPipeError:
        # The reader of the pipe has gone (`plansmith models | head`): keep Python from reporting that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):
            # Typer's own errors format their message.
            _fail(getattr(error, "format_message", error.__str__)(), code)
        if isinstance(error, OSError) and error.errno in _FULL:
            _fail(f"{error.strerror}: make room{f' for {error.filename}' if error.filename else ''}", EXIT_FAILED)
        if isinstance(error, OSError) and error.errno in _UNUSABLE and error.filename:
            permitted = "" if error.errno not in (errno.EACCES, errno.EPERM) else ", or change who may use it"
            _fail(f"{error.filename} cannot be used ({error.strerror}): name another{permitted}", EXIT_USAGE)
        # Ctrl-C while an extension module is imported arrives as an ImportError that it is the cause of.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is not None:
            sys.exit(EXIT_INTERRUPTED)
        if os.environ.get(DEBUG):
            raise
        _fail(
            f"this was not expected and is a fault of plansmith: {type(error).__name__}: {error}; {DEBUG}=1 in the "
            "environment shows where",
            EXIT_FAILED,
        )
    sys.exit(0)


def _call(words: list[str]) -> None:
    try:
        import typer  # noqa: F401, PLC0415
    except ImportError:
        _fail("the plansmith command needs typer and rich: add the extra `cli` of plansmith-client", EXIT_USAGE)
    from plansmith_client.project_file import project_defaults  # noqa: PLC0415 - not for what imports `run` alone

    # What a shell has so far, and asks to complete.
    line = os.environ.get("_TYPER_COMPLETE_ARGS", os.environ.get("COMP_WORDS", ""))
    called = next(iter(line.split()[1:] if _COMPLETION in os.environ else words), "")
    command = application_command(called)
    # Otherwise typer prints errors of usage itself, in a box.
    boxed = not _ERRORS_AS_JSON.get()
    defaults = project_defaults(command, called)
    sys.exit(command(args=words, prog_name="plansmith", default_map=defaults, standalone_mode=boxed))


def application_command(called: str) -> Any:
    """The application, with types in its help that a person reads."""
    import typer  # noqa: PLC0415

    command = typer.main.get_command(_application(called))
    show_plain_types(command, typer.Context(command, **command.context_settings))
    return command


def show_plain_types(command: Any, context: typer.Context) -> None:
    """Name arguments, choices and numbers in the help of a command and of its sub-commands as a person would.

    Args:
        command: typer's.
        context: of the command itself, or of what it belongs to.
    """
    # Where nothing else follows the first paragraph, typer takes away the margin that makes an example code.
    command.help = _EXAMPLES.sub(lambda found: f"```\n{dedent(found[0])}\n```", command.help or "")
    for parameter in (*command.params, command.get_help_option(context)):
        parameter.process_value = partial(_in_plain_words, parameter.process_value)
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument":
            parameter.metavar = parameter.metavar or parameter.name.upper()
            # Its name says what it is.
            parameter.display_type_rich = lambda **_: None
            shown = f"{parameter.metavar}{'...' if parameter.nargs != 1 else ''}"
            shown = shown if parameter.required else f"[{shown}]"
            # Typer's own way to show what is required is braces.
            parameter._usage_display_name = lambda shown=shown: shown  # noqa: SLF001
        elif parameter.metavar is None and hasattr(parameter, "display_type_rich"):
            shown = (parameter.display_type_rich(ctx=context) or "").strip("<>").removeprefix("list[").removesuffix("]")
            # Blanks let a narrow terminal wrap choices.
            parameter.metavar = _TYPES.get(shown, shown.replace("|", " | "))
    for name, inner in getattr(command, "commands", {}).items():
        show_plain_types(inner, type(context)(inner, parent=context, info_name=name, **inner.context_settings))


def _in_plain_words(process: Any, context: typer.Context, value: Any) -> Any:
    """A parameter's value; what pydantic says of one that is wrong is said as a person would."""
    import typer  # noqa: PLC0415

    try:
        found = process(context, value)
    except typer.BadParameter as error:
        said = error.message.removeprefix("Value error, ")
        for type_, expected in (("integer", "a whole number"), ("number", "a number")):
            if said.startswith(f"Input should be a valid {type_}"):
                said = f"{value!r} is not {expected}."
        error.message = said.replace("Input should be", f"{value} is not")
        raise
    if isinstance(found, float) and not math.isfinite(found):
        raise typer.BadParameter(f"{value!r} is not a finite number.", context, process.__self__)
    return found


def _application(called: str) -> typer.Typer:
    """All sub-commands by name and summary, `called` with its real options."""
    import typer  # noqa: PLC0415

    found = {point.name: point for point in entry_points(group="plansmith.commands")}
    application = typer.Typer(
        add_completion=True,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="markdown",
        help="From an ONNX file to a served, verified, load-tested Triton model.\n\nFor example:\n\n    plansmith demo",
    )

    @application.callback(invoke_without_command=True)
    def options(
        *,
        show_version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),  # noqa: FBT003
    ) -> None:
        if show_version:
            tell_version()
            raise typer.Exit

    @application.command("version", hidden=True)
    def tell_version() -> None:
        """Show the version, as --version does."""
        typer.echo(f"plansmith {version('plansmith-client')}")

    for name in [*KNOWN_COMMANDS, *sorted(found.keys() - KNOWN_COMMANDS.keys())]:
        target = found[name].load() if name == called and name in found else _placeholder(name)
        _add(application, name, target)
    return application


def _add(application: typer.Typer, name: str, target: Any) -> None:
    import typer  # noqa: PLC0415

    known = KNOWN_COMMANDS.get(name)
    panel = _HEADINGS.get(known.distribution, "Serve and ask") if known else None
    if isinstance(target, typer.Typer):
        application.add_typer(target, name=name, rich_help_panel=panel)
    else:
        # A placeholder accepts any arguments: all it does is say which distribution to install.
        anything = {"allow_extra_args": True, "ignore_unknown_options": True} if target.__name__ == "refuse" else {}
        application.command(name, context_settings=anything, rich_help_panel=panel)(target)


def _placeholder(name: str) -> Callable[..., None]:
    """Stands in for a sub-command that is only listed, or whose distribution is not installed."""
    known = KNOWN_COMMANDS.get(name)

    def refuse(ctx: typer.Context) -> None:
        distribution = known.distribution if known else name
        bringer = "plansmith[perf]" if distribution == "plansmith-perf" else "plansmith"
        sentence = f"`plansmith {ctx.info_name}` is part of {distribution}, which is not installed: {bringer} brings it"
        _fail(sentence, EXIT_USAGE)

    import typer  # noqa: PLC0415

    refuse.__annotations__["ctx"] = typer.Context
    refuse.__doc__ = known.summary if known else f"Provided by another distribution: plansmith {name} --help."
    return refuse


def _fail(sentence: str, code: int) -> NoReturn:
    if len(sentence) > _MOST_CHARACTERS:
        sentence = f"{sentence[:_MOST_CHARACTERS]} ... ({len(sentence) - _MOST_CHARACTERS} more characters)"
    if _ERRORS_AS_JSON.get():
        print(json.dumps({"error": {"message": sentence, "exit_code": code}}), file=sys.stderr)  # noqa: T201
    else:
        print(f"Error: {visible(sentence, keep=chr(10))}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
