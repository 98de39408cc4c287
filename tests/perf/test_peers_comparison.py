"""`plansmith bench compare` and the servers of others: real peers on the committed model, in short rounds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from peers.environments import REQUIREMENTS, make_environment
from peers.foreign_servers import FOREIGN_SERVERS, SAME_ENGINE
from peers.program import Program, open_program
from plansmith_perf.comparing.comparing import ComparisonOptions, run_comparison
from plansmith_perf.comparing.contestants import ClientContestant, EngineContestant
from plansmith_perf.comparing.engines import load_engine, spec_of
from plansmith_perf.comparing.peer import Peer
from plansmith_perf.comparing.peers import PEERS, choose_peers
from plansmith_perf.comparing.results import Comparison, median_throughput, paired_ratio
from plansmith_perf.comparing.subject import open_subject
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.load.requests import check_answer
from plansmith_perf.load.samples import RequestOptions
from plansmith_perf.report.documents import read_document
from plansmith_perf.results.formatting import as_rate
from plansmith_server.launcher.ports import find_free

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
COMMAND = (Path(sys.executable).with_name("plansmith"), "bench", "compare")
MEASURED = ("plansmith-grpc", "triton-default", "sdk-grpc", "tritonclient-aio", "onnxruntime")
SHORT = ("--rounds", "2", "--seconds", "0.3", "--warmup", "0.1", "--concurrency", "4")
MARK = "PLANSMITH_TEST_MARK"


def start(mark: str, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "digits", "--repository", REPOSITORY, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark, "COLUMNS": "300", "NO_COLOR": "1"},
    )


def running(mark: str) -> list[str]:
    """The command lines of all processes that a command with this mark has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """One comparison as a user makes it; the result from its file, and what it said."""
    folder = tmp_path_factory.mktemp("compared")
    np.savez(folder / "samples.npz", images=np.random.default_rng(0).random((24, 8, 8), np.float32))
    mark = uuid.uuid4().hex
    files = ("--samples", folder / "samples.npz", "--output", folder / "peers.json")
    command = start(mark, "--peers", ",".join(MEASURED), *SHORT, *files)
    said, complaints = command.communicate(timeout=200)
    assert command.returncode == 0, complaints
    assert running(mark) == []
    return read_document(folder / "peers.json"), said, complaints


def test_every_peer_is_measured_in_every_round_with_equal_answers(compared):
    comparison, _, complaints = compared
    assert "Traceback" not in complaints
    assert comparison.complete
    assert {peer.name for peer in comparison.peers} == {p.name for p in PEERS if p.key in (*MEASURED, "plansmith")}
    for peer in comparison.peers:
        assert (peer.status, peer.reason) == ("measured", None)
        assert len(peer.rounds) == 2
        assert peer.largest_difference < 1e-5
        assert peer.top1_agreement == 1.0
        assert peer.versions
        for measured in peer.rounds:
            assert measured.errors == 0
            assert measured.load.concurrency == 4
            assert measured.latency.count > 0
            assert measured.client_usage.memory > 0
            assert (measured.server_usage is None) == (peer.kind == "in process")
            assert (measured.server_side is not None) == (peer.kind in ("plansmith", "server"))


def test_a_ratio_is_the_median_of_the_rounds_and_has_both_figures(compared):
    comparison, said, _ = compared
    baseline = next(peer for peer in comparison.peers if peer.name == comparison.baseline)
    ours = next(peer for peer in comparison.peers if peer.name == "plansmith")
    pairs = [mine.throughput / theirs.throughput for mine, theirs in zip(ours.rounds, baseline.rounds, strict=True)]
    assert paired_ratio(comparison, "plansmith") == pytest.approx(np.median(pairs))
    assert paired_ratio(comparison, comparison.baseline) == 1
    assert paired_ratio(comparison, "nobody") is None
    line = next(line for line in said.splitlines() if line.strip().startswith("plansmith  "))
    assert baseline.name == "Triton, default configuration"
    assert f"{as_rate(median_throughput(ours))} / {as_rate(median_throughput(baseline))}" in line
    assert "plansmith to Triton, default configuration: " in said


def test_what_plansmith_serves_is_said(compared):
    comparison, _, _ = compared
    ours = next(peer for peer in comparison.peers if peer.kind == "plansmith")
    assert ours.setup.endswith("; config.pbtxt: onnxruntime, model.onnx")
    assert ours.versions["onnxruntime"]


def test_models_in_process_say_how_many_requests_a_call_has(compared):
    comparison, _, _ = compared
    (in_process,) = (peer for peer in comparison.peers if peer.kind == "in process")
    assert re.search(r"; calls of [124] requests?$", in_process.setup)


def test_the_table_says_why_there_are_no_rows_for_a_gpu(compared):
    comparison, said, _ = compared
    assert any("CUDA" in note for note in comparison.notes) or any("CUDA" in peer.name for peer in comparison.peers)
    assert all(note in said for note in comparison.notes)


def test_the_result_is_one_document_that_reads_back(compared, tmp_path):
    comparison, _, _ = compared
    file = tmp_path / "again.json"
    file.write_text(comparison.model_dump_json())
    assert read_document(file) == comparison


def own_program(key: str, *arguments: str, requirements: Path | None = None) -> Peer:
    program = Program(requirements, (), arguments, body="raw", path="/predict")
    return Peer(key, key, "server", "a test's own", "", lambda subject, _: open_program(subject, program))


def nobody_listens() -> Peer:
    """A client library that is sent to a port where nothing is: it raises what is its own."""

    @contextmanager
    def opened(subject, _):
        (port,) = find_free("127.0.0.1", 1)
        yield ClientContestant(subject=subject, versions={}, kind="tritonclient-grpc", url=f"127.0.0.1:{port}")

    return Peer("raises its own", "raises its own", "client", "a test's own", "", opened)


def other_outputs() -> Peer:
    """A model in process that is asked for what it does not have."""

    @contextmanager
    def opened(subject, most):
        spec = spec_of("onnxruntime", file=subject.file, outputs=["nothing"], served=None)
        yield EngineContestant(subject=subject, versions={}, engine=spec, compute=load_engine(spec), most=most)

    return Peer("asked for what is not there", "asked for what is not there", "in process", "a test's own", "", opened)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> Comparison:
    """Peers that each have something wrong with them."""
    impossible = tmp_path_factory.mktemp("requirements") / "impossible.txt"
    impossible.write_text(f"h11==0.16.0 --hash=sha256:{'0' * 64}\n")
    wrong_server = str(Path(__file__).with_name("peers_wrong_server.py"))
    options = ComparisonOptions(
        repository=REPOSITORY,
        model="digits",
        peers=[
            *choose_peers("plansmith"),
            # One answer tells that it is ready; the comparison has eight.
            own_program("always wrong", wrong_server, "0"),
            own_program("wrong under load", wrong_server, "40"),
            own_program("wrong now and then", wrong_server, "9", "among-errors"),
            own_program("does not start", "-c", "raise SystemExit('there is no such model')"),
            own_program("cannot be installed", "-c", "", requirements=impossible),
            nobody_listens(),
            other_outputs(),
        ],
        baseline="always wrong",
        rounds=2,
        measuring=MeasuringOptions(0.3, 0.1, 1, 10.0, percentiles=[50.0, 99.0]),
        concurrency=4,
        distinct_inputs=8,
    )
    return run_comparison(options)


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("always wrong", "wrong", "is off by"),
        ("wrong under load", "wrong", "under load: output"),
        ("wrong now and then", "wrong", "under load: "),
        ("does not start", "failed", "there is no such model"),
        ("cannot be installed", "unavailable", "cannot be installed"),
        ("raises its own", "failed", "InferenceServerException: "),
        ("asked for what is not there", "failed", "nothing"),
    ],
)
def test_a_peer_with_something_wrong_is_a_row_that_says_what_and_has_no_ratio(troubled, name, status, reason):
    peer = next(peer for peer in troubled.peers if peer.name == name)
    assert peer.status == status
    assert reason in peer.reason
    assert median_throughput(peer) is None
    assert paired_ratio(troubled, name, "plansmith") is None


def test_the_others_are_measured_all_the_same(troubled):
    assert troubled.complete
    ours = next(peer for peer in troubled.peers if peer.name == "plansmith")
    assert (ours.status, len(ours.rounds)) == ("measured", 2)
    assert paired_ratio(troubled, "plansmith") is None


@pytest.mark.parametrize("reduced", [True, False])
def test_a_peer_with_the_engine_that_plansmith_serves_may_be_as_inexact_as_that(reduced):
    subject = SimpleNamespace(served_path="configs/cpu.pbtxt", is_reduced=lambda path: reduced and "cpu" in path)
    assert [peer.reduced_precision(subject) for peer in SAME_ENGINE] == [reduced] * 2


@pytest.mark.parametrize("key", ["pytriton", "pytriton-served"])
def test_pytriton_runs_in_an_environment_of_its_own_with_a_triton_of_its_own(key):
    pytriton = next(peer for peer in (*FOREIGN_SERVERS, *SAME_ENGINE) if peer.key == key)
    options = RequestOptions(measuring=MeasuringOptions(0.1, 0.0, 1, 5.0), distinct_inputs=1)
    with (
        open_subject(REPOSITORY, "digits", options) as subject,
        pytriton.open(subject, 1) as contestant,
    ):
        (request,) = subject.requests
        check_answer(contestant.ask(request.inputs), request.expected, tolerance=1e-3)
        loaded = {file.path for process in contestant.find_processes() for file in process.memory_maps()}
        names = {process.name() for process in contestant.find_processes()}
    assert "tritonserver" in names
    environment = make_environment(REQUIREMENTS / "pytriton.txt")
    assert contestant.versions["nvidia-pytriton"] == environment.versions["nvidia-pytriton"]
    assert any(Path(path).is_relative_to(environment.python.parent.parent) for path in loaded)
    assert not any(Path(path).is_relative_to(sys.prefix) for path in loaded)


@pytest.mark.parametrize(("output", "sentence"), [("nowhere/peers.json", "does not exist"), (".", "this is a folder")])
def test_a_result_that_cannot_be_written_is_said_before_anything_is_measured(plansmith, tmp_path, output, sentence):
    done = plansmith(
        *("bench", "compare", "no-such-model", "--peers", "plansmith", "--output", output), expect=2, cwd=tmp_path
    )
    assert sentence in done.stderr


@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_result_that_cannot_be_written_after_all_has_been_shown(plansmith, words):
    done = plansmith(
        *("bench", "compare", "digits", "--repository", REPOSITORY, "--peers", "plansmith", "--rounds", "1"),
        *("--seconds", "0.2", "--warmup", "0", "--concurrency", "2", "--output", "/proc/peers.json", *words),
        expect=2,
    )
    assert "--output /proc/peers.json cannot be written" in done.stderr
    if words:
        assert median_throughput(Comparison.model_validate_json(done.stdout).peers[0]) > 0
    else:
        assert "requests in flight" in done.stdout


def test_ctrl_c_keeps_whole_rounds_and_leaves_nothing_running(tmp_path):
    mark = uuid.uuid4().hex
    file = tmp_path / "partial.json"
    words = ("--rounds", "500", "--seconds", "0.3", "--warmup", "0", "-c", "2", "--output", file)
    command = start(mark, "--peers", "triton-default", *words)
    deadline = time.monotonic() + 100
    seen: set[str] = set()
    # The third load is of the second round.
    while len(seen) < 3:
        assert command.poll() is None, command.stderr.read()
        assert time.monotonic() < deadline
        seen |= {line for line in running(mark) if "plansmith_perf.load.worker" in line and "plan-0" in line}
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    _, complaints = command.communicate(timeout=60)
    assert command.returncode == 130, complaints
    assert "partial" in complaints
    partial = read_document(file)
    assert not partial.complete
    assert all(len(peer.rounds) >= 1 for peer in partial.peers)
    assert all(measured.complete for peer in partial.peers for measured in peer.rounds)
    assert running(mark) == []


def test_peers_are_chosen_by_name_and_by_kind():
    assert [peer.key for peer in choose_peers("engine")] == ["plansmith", "engine"]
    assert {peer.kind for peer in choose_peers("client,in-process")} == {"plansmith", "client", "in process"}
    assert choose_peers("all") == list(PEERS)
    assert [peer.key for peer in choose_peers("")] == ["plansmith"]
    with pytest.raises(LoadTestMisconfigured, match=r"'django'.*triton-default"):
        choose_peers("engine,django")


@contextmanager
def changed_model(repository: Path, old: str, new: str):
    shutil.copytree(REPOSITORY / "digits", repository / "digits")
    config = repository / "digits" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    yield repository


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name: "digits"', 'name: "digits"\ndefault_model_filename: "../../elsewhere.onnx"', "no ONNX file"),
        ('backend: "onnxruntime"', 'backend: "openvino"', "no ONNX file"),
    ],
)
def test_a_model_without_a_portable_file_cannot_be_compared(repository, old, new, sentence):
    (repository.parent / "elsewhere.onnx").write_bytes(b"")
    with changed_model(repository, old, new) as changed:
        options = ComparisonOptions(
            repository=changed,
            model="digits",
            peers=choose_peers("plansmith"),
            baseline="plansmith",
            rounds=1,
            measuring=MeasuringOptions(0.1, 0.0, 1, 5.0),
            concurrency=4,
            distinct_inputs=1,
        )
        with pytest.raises(LoadTestMisconfigured, match=sentence):
            run_comparison(options)


def test_a_server_of_others_is_measured_beside_plansmith():
    fastapi = next(peer for peer in FOREIGN_SERVERS if peer.key == "fastapi")
    compared = run_comparison(
        ComparisonOptions(
            repository=REPOSITORY,
            model="digits",
            peers=[*choose_peers("plansmith"), fastapi],
            baseline=fastapi.name,
            rounds=1,
            measuring=MeasuringOptions(0.3, 0.1, 1, 10.0, percentiles=[50.0, 99.0]),
            concurrency=4,
            distinct_inputs=4,
        )
    )
    assert [(peer.name, peer.status) for peer in compared.peers] == [
        ("plansmith", "measured"),
        (fastapi.name, "measured"),
    ]
    assert all(measured.errors == 0 for peer in compared.peers for measured in peer.rounds)
    assert paired_ratio(compared, "plansmith") > 0


@pytest.fixture
def two_configurations(repository):
    """The digits with a second configuration, for OpenVINO, which finds the same file."""
    shutil.copytree(REPOSITORY / "digits", repository / "digits")
    text = (repository / "digits" / "config.pbtxt").read_text()
    (repository / "digits" / "configs").mkdir()
    # By itself OpenVINO computes in BF16 where the CPU can.
    in_fp32 = 'parameters { key: "INFERENCE_PRECISION_HINT" value { string_value: "f32" } }'
    named = text.replace(
        'backend: "onnxruntime"', f'backend: "openvino"\ndefault_model_filename: "model.onnx"\n{in_fp32}'
    )
    named = named[: named.index("optimization {")] + named[named.index("backend:") :]
    (repository / "digits" / "configs" / "by_openvino.pbtxt").write_text(named)
    return repository


def test_named_configurations_are_compared_with_each_other_each_on_a_server_of_its_own(plansmith, two_configurations):
    words = ("digits", "--repository", two_configurations, "--configs", "none,by_openvino", *SHORT, "--json")
    compared = Comparison.model_validate_json(plansmith("bench", "compare", *words).stdout)
    assert [peer.name for peer in compared.peers] == ["plansmith", "config.pbtxt", "configs/by_openvino.pbtxt"]
    assert [(peer.status, peer.reason) for peer in compared.peers] == [("measured", None)] * 3
    assert compared.baseline == "config.pbtxt"
    _, portable, other = compared.peers
    assert portable.setup.endswith("; config.pbtxt: onnxruntime, model.onnx")
    assert other.setup.endswith("; configs/by_openvino.pbtxt: openvino, model.onnx")
    assert set(other.versions) == {"plansmith-server", "triton", "openvino"}
    assert paired_ratio(compared, other.name) > 0


def test_a_configuration_that_the_model_does_not_have_is_refused_with_those_it_has(plansmith, two_configurations):
    words = ("digits", "--repository", two_configurations, "--configs", "by_openvino,int9")
    said = plansmith("bench", "compare", *words, expect=2).stderr
    assert "--configs has 'int9'; model 'digits' has: by_openvino, none" in said
