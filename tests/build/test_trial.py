"""Nothing is published that a real Triton does not load, or answers otherwise than was judged."""

import json

import numpy as np
import onnx
import pytest
from build_models import snapshot, write
from onnx import numpy_helper

from plansmith_build import (
    BuildOptions,
    InvalidOption,
    VerificationFailed,
    build,
    building,
    releasing,
    serving,
)
from plansmith_build import trial as trial_module
from plansmith_build.search import search as search_module
from plansmith_build.search import timing_served
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Device, Precision, Target
from plansmith_client import Model
from plansmith_server import TritonUnavailable
from plansmith_server.launcher import triton_wheel

ADD = "m (float[N, 4] x) => (float[N, 4] y) { y = Add (x, x) }"
# One of each: numbers and text by the row, by themselves, and truth values.
KINDS = {
    "rows": ADD,
    "number_of_each_row": "m (float[N, 4] x, float[N] s) => (float[N] y) <int64[1] a = {1}> { "
    "t = ReduceSum <keepdims = 0> (x, a) y = Mul (t, s) }",
    "text": "m (string[N, 1] x) => (string[N, 1] y) { y = Identity (x) }",
    "single_number": "m (float[4] x, float s) => (float y) { t = ReduceMax <keepdims = 0> (x) y = Mul (t, s) }",
    "decisions": "m (float[N, 4] x) => (bool[N, 4] y, int64[N, 4] z) { y = IsNaN (x) z = Cast <to = 7> (x) }",
    "half": "m (float16[N, 4] x) => (float16[N, 4] y) { y = Neg (x) }",
}


@pytest.fixture
def adder(tmp_path):
    return write(tmp_path / "adder.onnx", ADD)


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_is_served_by_a_triton_before_it_is_published(kind, repository, tmp_path):
    trial = build(
        write(tmp_path / f"{kind}.onnx", KINDS[kind]), BuildOptions(repository=repository)
    ).manifest.server_trial
    assert trial.served == ("config.pbtxt",)
    assert trial.triton
    assert not trial.skipped


def test_a_version_that_triton_refuses_is_not_published(adder, repository, monkeypatch):
    build(adder, BuildOptions(repository=repository))
    before = snapshot(repository)
    declare = releasing.model_config

    def with_another_shape(*arguments, **options):
        config = declare(*arguments, **options)
        config.output[0].dims[:] = [5]
        return config

    monkeypatch.setattr(releasing, "model_config", with_another_shape)
    with pytest.raises(VerificationFailed, match=r"Triton does not serve .* so nothing was published: .*5") as raised:
        build(adder, BuildOptions(repository=repository))
    assert "--no-serve" in str(raised.value)
    assert raised.value.exit_code == 3
    assert snapshot(repository) == before


def test_a_version_that_answers_otherwise_is_not_published(tmp_path, repository, monkeypatch):
    model = write(tmp_path / "scaled.onnx", "m (float[N, 4] x) => (float[N, 4] y) <float w = {2.0}> { y = Mul (x, w) }")
    release_of = building.release_of

    def with_other_weights(*arguments, **options):
        release = release_of(*arguments, **options)
        network = onnx.load(release.model_files[0])
        network.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.array(3.0, np.float32), network.graph.initializer[0].name)
        )
        onnx.save(network, release.model_files[0])
        return release

    monkeypatch.setattr(building, "release_of", with_other_weights)
    with pytest.raises(VerificationFailed, match=r"answers otherwise: output 'y' is off by 0\.5"):
        build(model, BuildOptions(repository=repository))
    assert not list(repository.iterdir())


LENGTHS = (3, 4, 7, 9)


@pytest.fixture
def network(tmp_path):
    """A small network and 64 rows for it, of four lengths."""
    rng = np.random.default_rng(0)
    weights = ", ".join(f"{v:.4f}" for v in rng.standard_normal(128))
    path = write(
        tmp_path / "net.onnx",
        f"m (float[N, S, 16] x) => (float[N, S, 8] y) <float[16, 8] w = {{{weights}}}> {{ y = MatMul (x, w) }}",
    )
    rows = {f"x/{row}": rng.standard_normal((LENGTHS[row % 4], 16)).astype(np.float32) for row in range(64)}
    np.savez(tmp_path / "rows.npz", **rows)
    return path, SearchOptions(
        str(tmp_path / "rows.npz"),
        targets=(Target.ONNXRUNTIME,),
        precisions=(Precision.FP32, Precision.INT8),
        max_error=0.3,
    )


def test_each_configuration_is_served_and_answers_as_its_candidate(network, repository, monkeypatch):
    model, search = network
    ready = {timing_served: [], trial_module: []}
    for module, found in ready.items():

        def watched(client, *rest, found=found, ask=module.problem_with_answers):
            found.append(sum(status.state == "READY" for status in client.models()))
            return ask(client, *rest)

        monkeypatch.setattr(module, "problem_with_answers", watched)
    asked = []

    def ask(model, request, *, infer=Model.infer):
        asked.append(request["x"].shape)
        return infer(model, request)

    monkeypatch.setattr(Model, "infer", ask)
    result = build(model, BuildOptions(repository=repository, search=search))
    trial = result.manifest.server_trial
    assert {*trial.served, *trial.skipped} == set(result.manifest.configs)
    assert "configs/cpu.pbtxt" in trial.served
    # What was made for a GPU that is not here says so instead.
    assert all("CUDA" in reason for reason in trial.skipped.values())
    # Each is a process with all weights: beside FP32 one at a time is loaded to be timed, and one alone to be tried.
    assert ready[timing_served][0] == 1
    assert set(ready[timing_served][1:]) == {2}
    assert ready[trial_module] == [1] * len(trial.served)
    assert len(trial.served) > 1
    assert "with one row each, of the same sizes" in result.manifest.search.measured
    assert set(asked) > {(1, length, 16) for length in LENGTHS}


def test_a_candidate_that_triton_refuses_is_a_line_and_another_one_is_published(network, repository, monkeypatch):
    configure = releasing.candidate_config
    refused = []

    def for_an_unknown_backend(portable, candidate):
        config = configure(portable, candidate)
        if candidate.pairing.device is Device.CPU and candidate.pairing in (refused or [candidate.pairing]):
            refused.append(candidate.pairing)
            config.backend = "nowhere"
        return config

    monkeypatch.setattr(releasing, "candidate_config", for_an_unknown_backend)
    model, search = network
    manifest = build(model, BuildOptions(repository=repository, search=search)).manifest
    lost = next(c for c in manifest.search.candidates if c.precision == refused[0].precision and c.device == "cpu")
    assert lost.status == "failed"
    assert "nowhere" in lost.reason
    assert {*manifest.server_trial.served, *manifest.server_trial.skipped} == set(manifest.configs)
    for text in manifest.configs.values():
        assert "nowhere" not in text


def test_no_serve_publishes_untried_and_says_so(adder, repository, plansmith):
    done = plansmith("build", adder, "--repository", repository, "--no-serve")
    assert "config.pbtxt not tried: --no-serve" in done.stdout
    shown = plansmith("inspect", "adder", "--repository", repository, "--json").stdout
    assert json.loads(shown)["manifest"]["server_trial"] == {
        "triton": "",
        "served": [],
        "skipped": {"config.pbtxt": "--no-serve"},
    }


@pytest.mark.parametrize(
    ("module", "missing", "way_out"),
    [
        (serving, "find_spec", "the package plansmith brings it, "),
        (triton_wheel, "_site_packages", "pip install nvidia-pytriton==0.7.0; "),
    ],
    ids=["plansmith-server", "Triton"],
)
def test_where_no_triton_can_be_started_only_no_serve_publishes(adder, tmp_path, module, missing, way_out):
    def none(name=None):
        if name is None:
            raise TritonUnavailable("Triton is not installed: pip install nvidia-pytriton==0.7.0")

    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, missing, none)
        patch.setattr(triton_wheel, "private_packages", lambda: None)
        with pytest.raises(InvalidOption, match=f"{way_out}or publish .*, with --no-serve") as raised:
            build(adder, BuildOptions(tmp_path / "models"), steps.append)
        assert raised.value.exit_code == 2
        assert not steps
        trial = build(adder, BuildOptions(tmp_path / "models", serve=False)).manifest.server_trial
    assert trial.skipped == {"config.pbtxt": "--no-serve"}


def test_a_large_model_is_tried_as_well_and_not_timed_as_served(network, repository, monkeypatch):
    model, search = network
    monkeypatch.setattr(search_module, "LARGE_BYTES", 100)
    manifest = build(model, BuildOptions(repository=repository, search=search)).manifest
    assert "so large" in manifest.search.measured
    assert {*manifest.server_trial.served, *manifest.server_trial.skipped} == set(manifest.configs)
    assert "config.pbtxt" in manifest.server_trial.served
