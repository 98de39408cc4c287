"""The `plansmith` command: what it lists, what it says of a mistake, and how it exits."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from rich.table import Table

from plansmith_client.cli import KNOWN_COMMANDS, run
from plansmith_client.terminal import Terminal as ClientTerminal
from plansmith_server.launcher.terminal import Terminal as ServerTerminal

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command_with_a_line(plansmith):
    listing = plansmith("--help").stdout
    for name, known in KNOWN_COMMANDS.items():
        assert name in listing
        assert known.summary in listing
    headings = re.findall(r"^╭─ ([\w ]+?) ─", listing, re.MULTILINE)
    assert headings == ["Options", "Begin", "Build", "Serve and ask", "Measure"]
    assert re.search(r"For example:\s+plansmith demo", listing)


@pytest.fixture(scope="module")
def shown_at() -> dict[str, dict[tuple[str, ...], str]]:
    """What `-h` says of each command at 300 and 80 columns, all in one process; Locust's is its own program's."""
    program = """
import contextlib, io, json, os, sys
from plansmith_client.cli import main
asked = json.load(sys.stdin)
for os.environ["COLUMNS"] in ("300", "80"):
    for words in asked:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            main([*words, "-h"])
        print(json.dumps(said.getvalue()))
"""
    commands = [(name,) for name in KNOWN_COMMANDS if name != "locust"]
    commands += [("bench", name) for name in ("run", "compare", "diff", "report")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(commands),
        check=True,
        capture_output=True,
        text=True,
    )
    texts = [json.loads(line) for line in done.stdout.splitlines()]
    wide, narrow = texts[: len(commands)], texts[len(commands) :]
    return {"300": dict(zip(commands, wide, strict=True)), "80": dict(zip(commands, narrow, strict=True))}


@pytest.fixture(scope="module")
def shown(shown_at) -> dict[tuple[str, ...], str]:
    return shown_at["300"]


def test_help_cuts_nothing_on_a_narrow_terminal(shown_at):
    for words, text in shown_at["80"].items():
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text, words
        assert "{" not in text, words


def test_every_command_of_an_installed_distribution_is_listed_and_explains_its_options(plansmith, shown):
    assert {point.name for point in entry_points(group="plansmith.commands")} == KNOWN_COMMANDS.keys()
    assert {words for words, text in shown.items() if "--json" not in text} == {("bench",)}
    for name in ("run", "compare", "diff", "report"):
        assert name in shown["bench",]
    of_locust = plansmith("locust", "-h").stdout
    assert "--json" in of_locust
    assert "For example: plansmith locust digits" in of_locust


def test_help_is_in_plain_words_and_names_every_default(shown):
    letters: set[tuple[str, str]] = set()
    for words, text in shown.items():
        assert "-h" in text, words
        # What typer calls types, and its brackets around brackets.
        assert not re.search(r"<(bool|str|int|float|path|list)|\[\[", text), words
        assert re.search(rf"For example:\s+plansmith {words[0]}", text), words
        examples = text.partition("For example:")[2].partition("╭")[0].splitlines()
        assert max(line.count("plansmith ") for line in examples) == 1, words
        letters.update(re.findall(r"(--[a-z-]+) +(-[a-z]) ", text))
    # A letter is the same option in every command, and an option has one letter.
    assert {"-h", "-o", "-r"} <= {letter for _, letter in letters}
    assert len(letters) == len({letter for _, letter in letters}) == len({option for option, _ in letters}), letters
    defaults = {
        ("build",): ["the file's", "0.5%", "5% of a relative error, 0.5% of a cosine", "all", "labels", "auto"],
        ("export",): ["the model's name.onnx", "the exporter's choice"],
        ("inspect",): ["all models", "the newest"],
        ("prune",): ["the repository's parent"],
        ("rollback",): ["the repository's parent"],
        ("tune",): ["24, or all with --exhaustive", "in the user's cache folder"],
        ("bench", "run"): ["1,2,4,8,16,32"],
    }
    for words, texts in defaults.items():
        for text in texts:
            assert f"[default: ({text})]" in shown[words], words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("build x.onnx --precision int4", "'int4' is not one of 'auto', 'fp32'"),
        ("build x.onnx --max-batch-size 3.5", "'3.5' is not a whole number"),
        ("build x.onnx --max-batch-size -4", "-4 is not greater than or equal to 0"),
        ("bench digits --seconds abc", "'abc' is not a number"),
        ("bench digits --tolerance nan", "'nan' is not a finite number"),
        ("capacity x.json --rate inf --slo p99=1ms", "'inf' is not a finite number"),
        ("build .", "Error: . is a folder without an ONNX file: name the .onnx file"),
        ("nosuch", "No such command 'nosuch'"),
        ("demo --output /proc/here", "Error: /proc/here cannot be used (No such file or directory): name another"),
    ],
)
def test_a_wrong_value_is_said_in_plain_words(plansmith, words, sentence):
    said = plansmith(*words.split(), expect=2).stderr
    assert sentence in said
    assert "Value error" not in said
    assert "Input" not in said
    # The same for a machine.
    done = plansmith(*words.split(), "--json", expect=2)
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert sentence.removeprefix("Error: ") in error["message"]
    assert error["exit_code"] == 2


@pytest.mark.parametrize("words", [("--json",), ("--format", "json"), ("--format=json",)])
def test_an_error_is_json_however_json_is_asked_for(plansmith, words):
    assert json.loads(plansmith("verify", "nowhere", *words, expect=2).stderr)["error"]["exit_code"] == 2


def test_the_skill_for_coding_assistants_names_what_there_is(shown):
    text = (ROOT / "skills" / "plansmith" / "SKILL.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert re.search(r"^name: plansmith$", head, re.MULTILINE)
    # The standard allows no more: https://agentskills.io/specification
    assert 100 < len(re.search(r"^description: (.*)$", head, re.MULTILINE)[1]) <= 1024
    called = re.findall(r"(?:\$ |`)plansmith ([a-z]+)([^`\n]*)", body)
    assert {"check", "build", "inspect", "verify", "serve", "health", "infer", "bench", "tune"} <= dict(called).keys()
    for name, rest in called:
        word = rest.split()[0] if name == "bench" and rest else ""
        words = (name, word) if (name, word) in shown else (name, "run") if name == "bench" else (name,)
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert f"{option} " in shown[words], (words, option)
    # What it says of refusals is what is said.
    sources = "".join(path.read_text() for path in (ROOT / "build_engines" / "src").rglob("*.py"))
    for said in ("needs data to judge by", "is another model to its clients", "outside the budget", "FP32 is right on"):
        assert said in body
        assert said in sources


def test_no_default_is_written_as_markup_that_help_swallows():
    sources = [
        path
        for folder in ("client", "server", "build_engines", "perf")
        for path in (ROOT / folder / "src").rglob("*.py")
    ]
    assert len(sources) > 100
    assert not [path for path in sources if "[default:" in path.read_text()]


def test_a_shell_completes_commands_and_their_options():
    command = Path(sys.executable).with_name("plansmith")
    completed = {}
    for words in ("plansmith inf", "plansmith bench di", "plansmith serve --http"):
        asked = {"_PLANSMITH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run([command], env={**os.environ, **asked}, check=True, capture_output=True, text=True)
        completed[words] = done.stdout.split()
    assert [*completed.values()] == [["infer"], ["diff"], ["--http-port"]]


def test_nothing_says_to_install_a_name_that_the_index_does_not_have():
    texts = [
        path
        for folder in ("client", "server", "build_engines", "perf", "plansmith", "docs")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".py", ".md"}
    ]
    assert not [
        path for path in (*texts, ROOT / "README.md") if re.search(r"pip install '?plansmith", path.read_text())
    ]


def test_help_imports_no_distribution():
    program = """
import sys
from plansmith_client.cli import main
try:
    main(["--help"])
finally:
    heavy = {"onnx", "onnxruntime", "openvino", "grpc", "plansmith_build", "plansmith_server"}
    print("imported:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_the_version_is_that_of_the_distribution(plansmith):
    for word in ("--version", "version"):
        assert plansmith(word).stdout == f"plansmith {version('plansmith-client')}\n"


def test_a_closed_pipe_is_no_failure_to_report(committed_server):
    command = Path(sys.executable).with_name("plansmith")
    listing = subprocess.Popen(
        [command, "models", "--url", committed_server.grpc_url, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    listing.stdout.close()
    error = listing.stderr.read().decode()
    listing.stderr.close()
    listing.wait(timeout=60)
    assert error == ""


@pytest.mark.parametrize("terminal", [ClientTerminal, ServerTerminal])
def test_names_of_others_are_shown_and_never_acted_on(terminal):
    written = io.StringIO()
    console = terminal(file=written, width=200, force_terminal=True, color_system=None)
    table = Table("name")
    table.add_row("a\x1b]0;owned\x07\u202eb")
    console.print(table)
    with console.status("c\x1b[2Jd"):
        console.print("e\x9bf", markup=False)
    shown = written.getvalue()
    for text in (r"a\x1b]0;ow", r"c\x1b[2Jd", r"e\x9bf"):
        assert text in shown
    assert "\x1b]0" not in shown
    assert "\x1b[2Jd" not in shown
    assert "\u202e" not in shown


def test_what_nobody_expected_is_one_sentence_and_a_traceback_for_those_who_ask():
    program = [sys.executable, "-c", "from plansmith_client.cli import run; run(lambda: 1 / 0)"]
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr
    asked = {**os.environ, "PLANSMITH_DEBUG": "1"}
    assert "Traceback" in subprocess.run(program, check=False, capture_output=True, text=True, env=asked).stderr


def test_ctrl_c_in_the_import_of_an_extension_module_is_no_fault(capsys):
    """pybind11's modules, such as ONNX Runtime's, raise an ImportError from it."""

    def work():
        error = ImportError("initialization failed")
        error.__context__ = KeyboardInterrupt()
        raise error

    with pytest.raises(SystemExit) as ended:
        run(work)
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""
