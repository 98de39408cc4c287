"""Attempts on ourselves: hostile files end in one plain sentence, in time, with nothing run, read, left or shown."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile_answers as answers
import pytest
from attacking import attack
from google.protobuf import json_format
from grpc import StatusCode
from hostile_models import write_models
from hostile_repositories import EVIL, SECRET, write_repositories
from hostile_results import write_results

import plansmith_build
from plansmith_build import BuildOptions
from plansmith_server.launcher.repository import read_repository

HERE = Path(__file__).parent
# What is not held, and why.
EXPLAINED: dict[str, str] = {}
LIMITS = ("--no-serve", "--replace", "--time-limit", "2", "--memory-limit", "1")


@pytest.mark.timeout(2400)
def test_hostile_models_are_read_and_run_in_their_limits(tmp_path):
    models = write_models(tmp_path / "models")
    assert len(models) >= 150
    codes, faults = attack({name: ["inspect", str(path)] for name, path in models.items()}, tmp_path / "work")
    assert codes["graph.output_doubled"] == 2
    # What is refused when it is read is not read again by a build; of harmless changes to a field some are enough.
    read = [name for name in models if not codes[name]]
    fields = [
        name
        for name in read
        if name.startswith(("graph.", "functions", "opset", "ir_", "producer", "doc_", "metadata"))
    ]
    read = {
        name: ["build", str(models[name]), "--name", "m", *LIMITS]
        for name in read
        if name not in fields or fields.index(name) % 8 == 0
    }
    # What builds that were ended have left, the next one removes; what it replaced stays until the one after it.
    read["last"] = ["build", str(models["with_a_tail"]), "--name", "m", *LIMITS, "--time-limit", "100"]
    _, more = attack(read, tmp_path / "work")
    assert (faults | more).keys() == EXPLAINED.keys(), faults | more
    staging = tmp_path / "work" / ".model_repository.plansmith"
    assert {path.name for path in staging.parent.iterdir()} <= {"model_repository", staging.name}
    assert [path.name for path in staging.glob("*/[!.]*")] == ["replaced"]
    assert not list((tmp_path / "temporary").glob("*-*"))


def test_ctrl_c_ends_an_endless_computation(tmp_path):
    loop = write_models(tmp_path / "models")["loop_2_62_trips"]
    command = [Path(sys.executable).with_name("plansmith"), "build", loop, "--no-serve"]
    builder = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    # The first words of progress; the file is run next, for ever.
    builder.stderr.readline()
    builder.send_signal(signal.SIGINT)
    _, said = builder.communicate(timeout=100)
    assert builder.returncode == 130
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A repository with two versions of a small model."""
    folder = tmp_path_factory.mktemp("good")
    path = next(path for name, path in write_models(folder / "models").items() if name == "with_a_tail")
    for _ in range(2):
        plansmith_build.build(path, BuildOptions(folder / "repository", "m", serve=False))
    return folder / "repository", path


@pytest.fixture
def repositories(tmp_path, good):
    """Hostile repositories by name, removed also after a failure: pytest's own removal would end at the deep one."""
    yield write_repositories(tmp_path / "repositories", good[0])
    subprocess.run(["rm", "-rf", str(tmp_path / "repositories")], check=True)


@pytest.mark.timeout(2400)
def test_hostile_repositories_are_findings_and_nothing_is_read_through_links(tmp_path, good, repositories):
    _, model = good
    # Before a build or a rollback, which may put a sound file in the place of a hostile one.
    served = {name for name, path in repositories.items() if not any(model.obstacle for model in read_repository(path))}
    others = itertools.cycle(
        [
            ["rollback", "m", "1"],
            ["prune", "m", "--keep", "1"],
            ["build", str(model), "--name", "m", *LIMITS, "--time-limit", "100"],
            ["inspect"],
        ]
    )
    commands = {}
    for (name, path), words in zip(repositories.items(), others, strict=False):
        commands[f"verify {name}"] = ["verify", str(path)]
        commands[f"inspect {name}"] = ["inspect", "m", "--repository", str(path)]
        commands[f"{words[0]} all {name}"] = [*words, "--repository", str(path)]
    codes, faults = attack(commands, tmp_path / "work")
    assert not faults
    assert {code for name, code in codes.items() if name.startswith("verify")} <= {0, 3}
    # Triton would wait for each of these, read it without end, run its name, or end with all other models.
    assert not [name for name in served if name.endswith(("_fifo", "_device"))]
    assert not served & {"version_20_digits", "version_255_digits", "model_shell", "model_evil", "model_not_utf8"}
    assert not [*tmp_path.glob("*/PWNED"), *tmp_path.glob("repositories/*/PWNED")]
    told = [
        path
        for path in (tmp_path / "repositories").glob("*/models/m/*/manifest.json")
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20 and SECRET in path.read_text()
    ]
    assert not told


def test_hostile_results_are_refused_or_shown_as_text(tmp_path):
    results = write_results(tmp_path / "results")
    assert len(results) >= 80
    commands = {}
    for (name, path), ending in zip(results.items(), itertools.cycle([*(["md", "csv"] * 8), "html"]), strict=False):
        commands[f"report {name}"] = ["bench", "report", str(path), "--output", f"report.{len(commands)}.{ending}"]
        commands[f"diff {name}"] = ["bench", "diff", str(results["good_1"]), str(path)]
    codes, faults = attack(commands, tmp_path / "work")
    assert not faults
    assert not codes["report good_0"]
    assert not codes["diff good_1"]
    for report in (tmp_path / "work").glob("report.*"):
        text = report.read_text()
        assert not set("\x1b\x07\u202e") & set(text)
        # A cell of a spreadsheet that begins with one is computed.
        assert report.suffix != ".csv" or not any(line.startswith(("=", '"=', '"\r=')) for line in text.splitlines())


def _evil(value: Any) -> Any:
    """A document with control characters in each of its texts, but in those that name what is asked for."""
    if isinstance(value, dict):
        return {key: inner if key in {"datatype", "state"} else _evil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_evil(inner) for inner in value]
    # Large numbers are texts in JSON.
    return value + EVIL if isinstance(value, str) and not value.lstrip("-").isdecimal() else value


def test_what_a_hostile_server_says_is_shown_and_never_acted_on(tmp_path):
    commands = {}
    with contextlib.ExitStack() as servers:
        for kind in ("texts", "errors"):
            http, rpc = (
                servers.enter_context(answers.serving(each)) for each in (answers.HttpServer, answers.GrpcServer)
            )
            for place, document in answers.DOCUMENTS.items():
                error = (json.dumps({"error": EVIL}).encode(), {}, 500)
                http.documents[place] = _evil(document) if kind == "texts" else error
            for method, message in answers.messages().items():
                evil = json_format.ParseDict(_evil(json_format.MessageToDict(message)), type(message)())
                rpc.replies[method] = (
                    evil if kind == "texts" else lambda context: context.abort(StatusCode.INTERNAL, EVIL)
                )
            for url in (http.url, rpc.url):
                for words in (
                    "models",
                    "health",
                    "health m",
                    "stats",
                    "stats m",
                    "infer m --random",
                    "load m",
                    "unload m",
                ):
                    commands[f"{kind} {url} {words}"] = [*words.split(), "--url", url]
        codes, faults = attack(commands, tmp_path / "work")
    assert not faults
    assert len(codes) == 32


def test_hostile_data_and_inputs_are_refused_or_read(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "reading_inputs.py", tmp_path / "inputs"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    ends = json.loads(done.stdout)
    assert len(ends["data"]) >= 247
    # Each as an input of numbers, of pictures and of words.
    assert len(ends["requests"]) == 3 * len(ends["data"])
    wrong = [(name, end) for each in ends.values() for name, end in each.items() if end not in {"read", "refused"}]
    assert not wrong
    assert not done.stderr
    assert not list(tmp_path.glob("PWNED"))
    # A rewritten element type or byte order is no harm.
    assert ends["data"]["archive_big_endian.npz"] == ends["requests"]["numbers array_half.npy"] == "read"


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path):
    """A disk that is full, which a limit of the size of files stands for."""
    before = b"what was measured yesterday"
    for name in ("answers.npz", "answers.json"):
        (tmp_path / name).write_bytes(before)
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from plansmith_client import InvalidInput
from plansmith_client.commands.output_files import write_output_file
from plansmith_client.protocol.results import InferResult
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.results.writing import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_output_file(Path("answers.npz"), InferResult({"y": np.zeros(10000)}, model_name="m", model_version="1"))
except InvalidInput as error:
    print(error)
try:
    write_text(Path("answers.json"), "x" * 10000, "--output")
except LoadTestMisconfigured as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.count("cannot be written: File too large") == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("answers.npz", "answers.json"), before
    )


def test_random_changes_raise_our_own_errors_alone():
    """The same changes in every run of the suite; others, and as many as PLANSMITH_FUZZ_RUNS says, where it is set."""
    runs = os.environ.get("PLANSMITH_FUZZ_RUNS")
    targets = [
        subprocess.Popen(
            [sys.executable, HERE / target, *([runs] if runs else [number, "0"])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for target, number in (("fuzz_loader.py", "10000"), ("fuzz_http.py", "1500"))
    ]
    said = [target.communicate()[1] for target in targets]
    for target, problems in zip(targets, said, strict=True):
        assert target.returncode == 0, problems[-3000:]
