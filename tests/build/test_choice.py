"""What is chosen by its speed, and what is said where that may not hold: on another kind of machine."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from serving import Serving
from stripes_models import write_data, write_stripes_classifier
from tritonclient.grpc import model_config_pb2

from plansmith_build.datasets import Dataset
from plansmith_build.datasets.ragged import ragged
from plansmith_build.reading.signatures import Signature
from plansmith_build.repository.config import model_config
from plansmith_build.repository.environment import missing_here, this_environment
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.search.candidate_configs import candidate_config
from plansmith_build.search.candidates import Candidate, Status
from plansmith_build.search.selection import finalists, select
from plansmith_build.search.targets import Device, Pairing, Precision, Target
from plansmith_build.search.timing import Speed, gains_by_batching, time_against
from plansmith_build.search.workload import Workload
from plansmith_server.launcher.chosen_machine import machine_warning

FP32 = Pairing(Target.ONNXRUNTIME, Device.CPU, Precision.FP32)
INT8 = Pairing(Target.ONNXRUNTIME, Device.CPU, Precision.INT8)
OPENVINO = Pairing(Target.OPENVINO, Device.CPU, Precision.INT8)


def test_the_winner_is_chosen_by_the_ratios_of_rounds_and_not_by_rates_that_drift():
    # The machine became twice as slow between the two: rates say the one, ratios the other.
    first, second = Speed.of_rounds([200, 210, 190], [100, 105, 95]), Speed.of_rounds([150, 160, 140], [50, 53, 47])
    tried = [
        Candidate(FP32, speed=Speed(100, 100, 1.0)),
        Candidate(INT8, speed=first),
        Candidate(OPENVINO, speed=second),
    ]
    assert first.rows_per_second > second.rows_per_second
    selection = select(tried, ())
    assert selection.named["cpu"].pairing == OPENVINO
    assert [candidate.status for candidate in selection.candidates] == [Status.SLOWER, Status.KEPT, Status.CHOSEN]


def test_fp32_is_the_first_finalist_and_the_one_served_fastest_wins():
    tried = [Candidate(p, speed=Speed(r, 100, r / 100)) for p, r in {INT8: 300, OPENVINO: 290, FP32: 100}.items()]
    entrants = finalists(tried)
    assert [entrant.pairing for entrant in entrants[:3]] == [FP32, INT8, OPENVINO]
    served = [
        SimpleNamespace(**{**vars(entrant), "served": Speed(ratio, 1, ratio)})
        for entrant, ratio in zip(entrants[:3], (1.0, 1.5, 2.0), strict=True)
    ]
    real = [Candidate(**vars(entry)) for entry in served]
    assert select(tried, real).named["cpu"].pairing == OPENVINO


def test_what_was_measured_on_the_cuda_provider_is_served_on_it():
    signature = Signature((), (), {})
    portable = model_config("m", signature, max_batch_size=8)
    files = SimpleNamespace(files=(SimpleNamespace(name="model.onnx"),), format="")
    pairing = Pairing(Target.ONNXRUNTIME, Device.GPU, Precision.FP16)
    unmeasured = candidate_config(portable, Candidate(pairing, graph=files))
    measured = candidate_config(portable, Candidate(pairing, graph=files, speed=Speed(200, 100, 2.0)))
    assert unmeasured.optimization.execution_accelerators.gpu_execution_accelerator[0].name == "tensorrt"
    assert not measured.HasField("optimization")
    assert measured.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def texts(*lengths, batched=True):
    """Rows of these lengths, each with numbers of its own."""
    rows = [np.full(length, number) for number, length in enumerate(lengths)]
    ids = np.stack(rows) if len(set(lengths)) == 1 else ragged(rows)
    return Dataset({"ids": ids}, None, "texts.npz", "", "npz", batched)


class TimedByLength:
    """Takes the seconds that a function gives for each row of a length, by a clock that all of them share."""

    now = 0.0

    def __init__(self, seconds):
        self._seconds = seconds

    def run(self, inputs):
        rows = len(inputs["ids"]) if inputs["ids"].ndim > 1 else 1
        TimedByLength.now += rows * self._seconds(inputs["ids"].shape[-1])
        return {}


def speeds(runtimes, workload):
    """Against the first of them."""
    reference = next(iter(runtimes.values()))
    return [
        Candidate(pairing, speed=time_against(runtime, reference, workload, clock=lambda: TimedByLength.now))
        for pairing, runtime in runtimes.items()
    ]


@pytest.mark.parametrize(("batched", "max_batch_size"), [(True, 8), (True, 1), (False, 0)])
def test_what_wins_at_the_middle_length_and_loses_over_the_data_is_not_chosen(batched, max_batch_size):
    runtimes = {
        FP32: TimedByLength(lambda length: length * 1e-4),
        INT8: TimedByLength(lambda length: length * 1e-4 * (0.5 if length < 100 else 2)),
        OPENVINO: TimedByLength(lambda length: length * 0.8e-4),
    }
    workload = Workload.of(texts(*[16] * 10, *[128] * 6, batched=batched), max_batch_size)
    assert workload.middle["ids"].shape[-1] == 16
    usual = max(1, max_batch_size)
    at_the_middle = Workload((workload.middle,), usual, workload.middle, is_batched=usual > 1)
    assert select(speeds(runtimes, at_the_middle), ()).named["cpu"].pairing == INT8
    over_the_data = speeds(runtimes, workload)
    assert select(over_the_data, ()).named["cpu"].pairing == OPENVINO
    # Half of the requests are short: 288 tokens at the speed of FP32 take what 528 do.
    assert over_the_data[1].speed.ratio == pytest.approx(288 / 528)


def test_sizes_are_timed_as_often_as_the_data_has_them_and_are_named():
    several = Workload.of(texts(5, 3, 9, 5, 5, 3, 9, 5), 8)
    assert [request["ids"].shape for request in several.requests] == [(2, 3), (2, 5), (2, 5), (2, 9)]
    assert several.sizes == " at the middle size of each quarter of the data in turn (ids [3], [5], [5], [9])"
    hardly = Workload.of(texts(*[4] * 31, 90), 8)
    assert [request["ids"].shape for request in hardly.requests] == [(8, 4)]
    assert hardly.sizes == " at the size that most of the data has (ids [4])"
    alone = Workload.of(texts(1, 2, 3, 4, 5, batched=False), 0)
    assert [request["ids"].shape for request in alone.requests] == [(1,), (2,), (4,), (5,)]


def test_rows_of_one_shape_are_timed_as_one_request():
    workload = Workload.of(texts(*[3] * 20), 32)
    (request,) = workload.requests
    assert request["ids"][:, 0].tolist() == list(range(8))
    assert (workload.rows, workload.effort, workload.sizes) == (8, 1, "")
    assert Workload.of(texts(3, 3), 4).requests[0]["ids"][:, 0].tolist() == [0, 1, 0, 1]
    assert Workload.of(texts(3, 3, batched=False), 0).requests[0]["ids"].shape == (3,)


@pytest.mark.parametrize(("batched", "max_batch_size"), [(True, 32), (True, 5), (True, 1), (False, 0)])
@pytest.mark.parametrize("seconds", [0.0013, 0.031, 0.047, 0.11, 0.7, 2.3])
def test_several_sizes_take_no_longer_than_one(seconds, batched, max_batch_size):
    workload = Workload.of(texts(1, 2, 3, 4, 5, batched=batched), max_batch_size)
    usual = min(8, max(1, max_batch_size))
    took = []
    for asked in (Workload((workload.middle,), usual, workload.middle, is_batched=usual > 1), workload):
        runtime, started = TimedByLength(lambda _: seconds), TimedByLength.now
        time_against(runtime, TimedByLength(lambda _: seconds), asked, clock=lambda: TimedByLength.now)
        took.append(TimedByLength.now - started)
    assert took[1] <= took[0] * (1 + 1e-6)


class RecordedRuntime:
    """Takes as long as was read on an H200, where a size that follows another costs more."""

    def __init__(self, *, first_row: float, each_row: float, change: float) -> None:
        self.now = 0.0
        self._first, self._each, self._change = first_row, each_row, change
        self._size = 0

    def run(self, inputs):
        (array,) = inputs.values()
        self.now += self._first + self._each * (len(array) - 1) + (self._change if len(array) != self._size else 0)
        self._size = len(array)
        return {}


@pytest.mark.parametrize(
    ("seconds", "gains"),
    [
        # ResNet-50 on the CUDA provider, its algorithms searched for and by rule, and a network without convolutions.
        ({"first_row": 0.003, "each_row": 0.0002, "change": 0.150}, False),
        ({"first_row": 0.003, "each_row": 0.0002, "change": 0.045}, True),
        ({"first_row": 0.001, "each_row": 0.0001, "change": 0.0}, True),
    ],
)
def test_requests_are_joined_where_batches_of_changing_size_are_faster(seconds, gains):
    runtime = RecordedRuntime(**seconds)
    request = {"images": np.zeros((32, 3), np.float32)}
    assert gains_by_batching(runtime, request, clock=lambda: runtime.now) is gains


def test_the_server_joins_no_requests_where_that_was_measured_slower():
    portable = model_config("m", Signature((), (), {}), max_batch_size=8)
    files = SimpleNamespace(files=(SimpleNamespace(name="model.onnx"),), format="")
    measured = Candidate(
        Pairing(Target.ONNXRUNTIME, Device.GPU, Precision.FP32), graph=files, speed=Speed(200, 100, 2.0)
    )
    assert candidate_config(portable, measured).HasField("dynamic_batching")
    alone = candidate_config(portable, replace(measured, is_batched=False))
    assert not alone.HasField("dynamic_batching")
    # What a client sends as one request is still computed at once.
    assert alone.max_batch_size == 8


def write_gpu(driver, name):
    """What NVIDIA's driver tells of a GPU."""
    (driver / "gpus/0000:01:00.0").mkdir(parents=True)
    (driver / "gpus/0000:01:00.0/information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 35\n")
    return driver


def test_the_environment_names_flags_engines_gpus_and_driver(tmp_path):
    write_gpu(tmp_path, "NVIDIA L4")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)\n"
    )
    environment = this_environment(tmp_path)
    assert (environment.gpus, environment.driver) == (("NVIDIA L4",), "550.54.15")
    assert {"onnxruntime", "openvino"} < set(environment.tools)
    if platform.machine() == "x86_64":
        assert "avx2" in environment.cpu_flags
    nowhere = this_environment(tmp_path / "nowhere")
    assert (nowhere.gpus, nowhere.driver) == ((), "")


@pytest.fixture(scope="module")
def chosen(plansmith, tmp_path_factory):
    """A model with a configuration that was chosen on a CPU which has an instruction more than any."""
    folder = tmp_path_factory.mktemp("chosen")
    repository = folder / "model_repository"
    plansmith(
        *("build", write_stripes_classifier(folder / "stripes.onnx"), "--repository", repository, "--no-serve"),
        *("--data", write_data(folder / "data.npz"), "--target", "onnxruntime", "--precision", "int8"),
    )
    path = repository / "stripes/1/manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["environment"]["cpu_flags"]
    manifest["environment"]["cpu"] = "[green]Newer CPU"
    manifest["environment"]["cpu_flags"].append("avx99_vnni")
    path.write_text(json.dumps(manifest))
    return repository


def test_verify_and_serve_say_that_a_configuration_was_chosen_on_another_kind_of_machine(chosen, plansmith):
    said = plansmith("verify", chosen).stdout
    assert (
        "stripes/configs/cpu.pbtxt: warning: it was chosen on another kind of machine ([green]Newer CPU), and" in said
    )
    assert "this CPU has no avx99_vnni" in said
    assert "0 errors, 1 warning" in said
    _, warned = Serving(chosen).stop()
    assert "configs/cpu.pbtxt was chosen on another kind of machine ([green]Newer CPU)" in warned
    assert "serve the portable model with --config-name none" in warned


def test_nothing_is_said_where_the_machine_is_as_good_or_nothing_was_measured(chosen, tmp_path):
    model = shutil.copytree(chosen / "stripes", tmp_path / "stripes")
    path = model / "1/manifest.json"
    manifest = json.loads(path.read_text())
    (tmp_path / "better").write_text(f"flags : {' '.join(manifest['environment']['cpu_flags'])} and_more\n")
    (tmp_path / "arm").write_text("Features : asimd asimddp\n")
    assert machine_warning(model, "configs/cpu.pbtxt", tmp_path / "better") == ""
    assert "avx99_vnni" in machine_warning(model, "configs/cpu.pbtxt", tmp_path / "arm")
    assert machine_warning(model, "config.pbtxt", tmp_path / "arm") == ""
    t4, l4 = (write_gpu(tmp_path / name, name) for name in ("Tesla T4", "NVIDIA L4"))
    # As a build on a machine with a GPU writes it; a CPU with less does not matter to what the GPU computes.
    manifest["environment"]["gpus"] = ["NVIDIA L4"]
    on_gpu = {**manifest["search"]["candidates"][0], "config": "configs/gpu.pbtxt", "device": "gpu"}
    manifest["search"]["candidates"].append({**on_gpu, "rows_per_second": 100.0})
    path.write_text(json.dumps(manifest))
    said = machine_warning(model, "configs/gpu.pbtxt", tmp_path / "arm", t4)
    assert "another kind of machine (NVIDIA L4), and this machine has Tesla T4" in said
    assert machine_warning(model, "configs/gpu.pbtxt", tmp_path / "arm", l4) == ""
    assert machine_warning(model, "configs/gpu.pbtxt", tmp_path / "arm", tmp_path / "nowhere") == ""
    chosen_on = read_manifest(path).environment
    assert missing_here(chosen_on, "gpu", t4) == "this machine has Tesla T4"
    assert missing_here(chosen_on, "gpu", l4) == missing_here(chosen_on, "gpu", tmp_path / "nowhere") == ""
    # A build in a container without the driver's files knows no GPUs.
    assert missing_here(chosen_on.model_copy(update={"gpus": ()}), "gpu", t4) == ""
    manifest["environment"]["gpus"] = []
    path.write_text(json.dumps(manifest))
    assert machine_warning(model, "configs/gpu.pbtxt", tmp_path / "arm", t4) == ""
    manifest["environment"]["system"] = "Linux riscv64"
    path.write_text(json.dumps(manifest))
    assert f"this machine is Linux {platform.machine()}" in machine_warning(
        model, "configs/cpu.pbtxt", tmp_path / "better"
    )
    for broken in ("{", "[]", '{"search": null}', "[" * 100_000):
        path.write_text(broken)
        assert machine_warning(model, "configs/cpu.pbtxt") == ""
    path.unlink()
    assert machine_warning(model, "configs/cpu.pbtxt") == ""
