"""`plansmith build MODEL --data DATA --max-drop 0.5%`: the fastest version that is accurate enough, with proof."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from build_models import HEADER, snapshot, write
from google.protobuf import text_format
from light_models import light_model_path, searched_light_model_names
from onnx import numpy_helper
from PIL import Image
from stripes_models import stripes, write_data, write_stripes_classifier
from tritonclient.grpc import model_config_pb2

from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer


@pytest.fixture(scope="module")
def built(plansmith, tmp_path_factory):
    """The stripes classifier, built from labelled data: its repository and what the command printed as JSON."""
    folder = tmp_path_factory.mktemp("built")
    model = write_stripes_classifier(folder / "stripes.onnx")
    data = write_data(folder / "calibration.npz")
    repository = folder / "model_repository"
    done = plansmith("build", model, "--data", data, "--max-drop", "0.5%", "--repository", repository, "--json")
    return repository, json.loads(done.stdout)


def candidates(result, **wanted):
    found = result["manifest"]["search"]["candidates"]
    return [entry for entry in found if all(entry[key] == value for key, value in wanted.items())]


def config_of(path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_the_chosen_candidate_becomes_the_cpu_configuration(built):
    repository, result = built
    (chosen,) = candidates(result, status="chosen")
    assert chosen["config"] == "configs/cpu.pbtxt"
    config = config_of(repository / "stripes/configs/cpu.pbtxt")
    assert (config.backend, config.default_model_filename) == (chosen["target"], chosen["file"])
    assert (repository / "stripes/1" / chosen["file"]).is_file()
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]
    assert not config.optimization.execution_accelerators.gpu_execution_accelerator


def test_the_portable_configuration_stays_beside_it(built):
    repository, _ = built
    config = config_of(repository / "stripes/config.pbtxt")
    assert config.backend == "onnxruntime"
    assert config.default_model_filename in {"", "model.onnx"}
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]


def test_every_candidate_is_in_the_manifest_with_its_figures_or_the_reason_why_not(built):
    _, result = built
    for entry in result["manifest"]["search"]["candidates"]:
        if entry["status"] in {"chosen", "kept", "slower"}:
            assert entry["accuracy"]["top1"] is not None
            assert entry["rows_per_second"] > 0
            assert entry["ratio_to_fp32"] > 0
            assert entry["drop"] <= 0.005
        else:
            assert entry["reason"]
    assert len(candidates(result, target="onnxruntime", device="cpu", precision="int8")) == 1
    assert {entry["status"] for entry in candidates(result, target="tensorrt")} == {"not possible here"}


def test_the_chosen_one_is_not_slower_than_fp32_where_both_were_served(built):
    _, result = built
    (chosen,) = candidates(result, status="chosen")
    (base,) = candidates(result, target="onnxruntime", device="cpu", precision="fp32")
    assert base["served_ratio"] == 1
    assert chosen["served_ratio"] * 1.06 >= 1
    assert chosen["served_rows_per_second"] > 0


def test_calibration_and_validation_rows_are_kept_apart_and_named(built):
    _, result = built
    search = result["manifest"]["search"]
    calibration, validation = search["calibration"], search["validation"]
    assert calibration["rows"] + validation["rows"] == 128
    assert (calibration["kind"], calibration["source"]) == ("npz", "calibration.npz")
    assert validation["labelled"]
    assert search["fp32"]["rows"] == validation["rows"]
    assert search["fp32"]["top1"] > 0.95


def test_every_configuration_is_served_and_as_accurate_as_promised(built):
    repository, result = built
    images, labels = stripes(200, seed=11)
    names = [path.stem for path in (repository / "stripes/configs").iterdir()]
    assert "cpu" in names
    for name in ["auto", "none", *sorted(set(names) - {"cpu"})]:
        options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name=name)
        with TritonServer(options) as server, Client(server.grpc_url) as client:
            model = client.model("stripes")
            answers = np.concatenate([model(images[start : start + 32]).array for start in range(0, 200, 32)])
        assert np.mean(answers.argmax(axis=1) == labels) >= result["manifest"]["search"]["fp32"]["top1"] - 0.03, name


def test_a_later_build_without_data_takes_the_configurations_of_the_version_before_away(built, plansmith, tmp_path):
    repository = shutil.copytree(built[0], tmp_path / "model_repository")
    assert list((repository / "stripes/configs").glob("*.pbtxt"))
    plansmith("build", write_stripes_classifier(tmp_path / "stripes.onnx"), "--repository", repository, "--no-serve")
    # They may name files that version 2 does not have.
    assert {path.name for path in (repository / "stripes").iterdir()} == {"1", "2", "config.pbtxt", "history.json"}


def test_nodes_that_int8_breaks_stay_in_fp32_and_the_manifest_names_them(plansmith, repository, tmp_path):
    model = write_stripes_classifier(tmp_path / "fragile.onnx", fragile=True)
    done = plansmith(
        *("build", model, "--data", write_data(tmp_path / "data.npz"), "--repository", repository),
        *("--target", "onnxruntime", "--precision", "int8", "--no-serve", "--json"),
    )
    (entry,) = candidates(json.loads(done.stdout), device="cpu")
    assert entry["drop"] <= 0.005
    assert entry["config"] is not None
    assert set(entry["kept_in_fp32"]) & {"middle", "last"}
    graph = onnx.load(repository / "fragile/1" / entry["file"]).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    reads = {node.name: [made_by.get(name) for name in node.input[1:2]] for node in graph.node}
    for name in entry["kept_in_fp32"]:
        assert reads[name] != ["DequantizeLinear"]


def test_a_graph_for_tensorrt_is_verified_compiled_and_configured_without_a_gpu(plansmith, repository, tmp_path):
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    done = plansmith(
        *("build", model, "--data", write_data(tmp_path / "data.npz"), "--repository", repository),
        *("--target", "tensorrt", "--no-serve", "--json"),
    )
    found = candidates(json.loads(done.stdout), target="tensorrt")
    assert {entry["precision"] for entry in found} == {"fp32", "fp16", "bf16", "int8", "int8-fp16"}
    assert {entry["status"] for entry in found} == {"compiled, not measured"}
    assert [entry["precision"] for entry in found if entry["config"] == "configs/gpu.pbtxt"] == ["fp16"]
    config = config_of(repository / "stripes/configs/gpu.pbtxt")
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.fp16.onnx")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, accelerator.parameters["precision_mode"]) == ("tensorrt", "FP16")
    assert not (repository / "stripes/configs/cpu.pbtxt").exists()


def test_a_budget_that_nothing_meets_publishes_nothing_and_says_how_close_it_came(plansmith, repository, tmp_path):
    # One input is a thousand times as large as the others and says nothing.
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, 8)).astype(np.float32)
    rows[:, 0] *= 1000
    weights = rng.standard_normal((8, 4)).astype(np.float32)
    weights[0] = 0
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, 8] x) => (float[N, 4] y) {{ y = MatMul (x, w) }}")
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, tmp_path / "wide.onnx")
    np.savez(tmp_path / "data.npz", x=rows)
    before = snapshot(tmp_path)
    done = plansmith(
        *("build", tmp_path / "wide.onnx", "--data", tmp_path / "data.npz", "--repository", repository),
        *("--target", "onnxruntime", "--target", "openvino", "--precision", "int8"),
        expect=3,
    )
    assert "no candidate can be used, so nothing was published" in done.stderr
    assert "onnxruntime int8 (CPU): is off by" in done.stderr
    said = " ".join(done.stderr.split())
    assert (
        "(output 'y' by relative-error); 5.00% is allowed; no half of its nodes was found that saves it if left in FP32"
        in said
    )
    assert snapshot(tmp_path) == before


def test_without_labels_agreement_with_fp32_is_the_measure(plansmith, repository, tmp_path):
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    data = write_data(tmp_path / "data.npz", 32, labels=False)
    done = plansmith(
        *("build", model, "--data", data, "--repository", repository, "--no-serve"),
        *("--target", "onnxruntime", "--precision", "int8", "--max-drop", "10%", "--metric", "top1"),
    )
    said = " ".join(done.stdout.split())
    assert "compared with FP32 on 16 rows of data.npz; scores by top1, at most 10.00% may be lost" in said
    assert "16 rows can prove no better than 18.22% by top1, and 10.00% is allowed" in said
    manifest = json.loads((repository / "stripes/1/manifest.json").read_text())
    (output,) = next(
        entry["accuracy"]["outputs"] for entry in manifest["search"]["candidates"] if entry["status"] == "chosen"
    )
    assert (output["measure"], output["allowed"]) == ("top1", 0.1)
    assert output["loss"] < 0.1 < output["bound"]
    assert output["top1_agreement"] >= 0.9
    assert output["cosine"] > 0.98
    assert output["signal_to_noise_db"] > 15
    assert output["max_absolute_error"] > 0


def test_pruned_weights_are_judged_like_everything_else(plansmith, repository, tmp_path):
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    done = plansmith(
        *("build", model, "--data", write_data(tmp_path / "data.npz"), "--repository", repository, "--no-serve"),
        *("--target", "onnxruntime", "--precision", "fp32", "--sparsity", "10%", "--max-drop", "5%", "--json"),
    )
    (entry,) = candidates(json.loads(done.stdout), device="cpu")
    assert (entry["status"], entry["layout"]) == ("chosen", "weights pruned 0.1 by magnitude")
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(repository / "stripes/1/model.sparse.onnx").graph.initializer
    }
    sparse = [name for name in ("w1", "w2", "w3", "matrix") if np.mean(weights[name] == 0) >= 0.08]
    assert sparse
    assert len(sparse) + len(entry["kept_in_fp32"]) == 4


def test_labels_in_another_order_than_the_classes_are_a_warning(plansmith, repository, tmp_path):
    images, labels = stripes(64, seed=5)
    np.savez(tmp_path / "data.npz", images=images, labels=(labels + 1) % 4)
    done = plansmith(
        *("build", write_stripes_classifier(tmp_path / "stripes.onnx"), "--data", tmp_path / "data.npz", "--json"),
        *("--repository", repository, "--no-serve", "--target", "onnxruntime", "--precision", "fp32"),
    )
    warnings = json.loads(done.stdout)["manifest"]["search"]["warnings"]
    assert any("with the classes in another order: are the labels in the order" in warning for warning in warnings)


def test_random_data_is_called_random(plansmith, repository, tmp_path):
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    done = plansmith(
        *("build", model, "--data", "random:16", "--repository", repository, "--no-serve", "--target", "onnxruntime"),
        *("--precision", "fp32"),
    )
    assert "8 random rows, which say little of real data" in done.stdout
    manifest = json.loads((repository / "stripes/1/manifest.json").read_text())
    assert manifest["search"]["validation"]["kind"] == "random"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "openvino"], "--target needs data to judge by"),
        (["--max-drop", "1%"], "--max-drop needs data to judge by"),
        (
            ["--data", "random", "--max-drop", "lots"],
            "--max-drop must be a percentage or a fraction below 1, such as 0.5% or 0.005, got 'lots'",
        ),
        (["--data", "random", "--sparsity", "3:4"], "--sparsity '3:4' is unknown"),
        (["--data", "missing.npz"], "missing.npz"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_made(plansmith, repository, tmp_path, words, said):
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    done = plansmith("build", model, "--repository", repository, *words, expect=2)
    assert said in done.stderr
    assert not list(repository.iterdir())


def test_where_no_triton_can_start_a_build_says_so_and_measures_in_process_when_told_to(repository, tmp_path):
    command = [
        *(Path(sys.executable).with_name("plansmith"), "build", write_stripes_classifier(tmp_path / "stripes.onnx")),
        *("--data", write_data(tmp_path / "data.npz"), "--repository", repository, "--json"),
        *("--target", "onnxruntime", "--precision", "fp32", "--precision", "int8"),
    ]
    # Without bash, by which Triton starts its backends.
    without_bash = {**os.environ, "PATH": "/nonexistent", "COLUMNS": "300"}
    refused = subprocess.run(command, check=False, capture_output=True, text=True, env=without_bash)
    assert refused.returncode == 2
    assert "Triton starts its backends through bash" in refused.stderr
    assert "--no-serve" in refused.stderr
    assert not any(repository.iterdir())
    done = subprocess.run([*command, "--no-serve"], check=True, capture_output=True, text=True, env=without_bash)
    result = json.loads(done.stdout)
    assert "not as served: --no-serve" in result["manifest"]["search"]["measured"]
    assert len(candidates(result, status="chosen", device="cpu")) == 1


@pytest.mark.parametrize("name", searched_light_model_names())
def test_a_well_known_network_goes_through_all_targets_without_a_crash(name, plansmith, repository):
    done = plansmith(
        *("build", light_model_path(name), "--target", "auto", "--data", "random:4", "--repository", repository),
        *("--no-serve", "--calibration", "minmax", "--max-batch-size", "2", "--json"),
    )
    result = json.loads(done.stdout)
    usable = candidates(result, target="onnxruntime", device="cpu", precision="fp32")
    assert usable[0]["status"] in {"chosen", "kept", "slower"}
    assert len(candidates(result, status="chosen")) == 1
    for entry in candidates(result, device="cpu"):
        assert entry["rows_per_second"] or entry["reason"]


def test_int8_digits_stay_within_half_a_point_of_fp32(plansmith, repository, held_out_file):
    done = plansmith(
        *("build", held_out_file.with_name("digits.onnx"), "--data", held_out_file, "--repository", repository),
        *("--target", "onnxruntime", "--target", "openvino", "--precision", "int8", "--max-drop", "0.5%", "--no-serve"),
        "--json",
    )
    result = json.loads(done.stdout)
    fp32 = result["manifest"]["search"]["fp32"]
    assert fp32["rows"] > 200
    for target in ("onnxruntime", "openvino"):
        (entry,) = candidates(result, target=target, device="cpu", precision="int8")
        assert entry["accuracy"]["top1"] >= fp32["top1"] - 0.005


UNUSUAL = {
    # Whole numbers in, as for words: a table of rows, and a matrix that INT8 can take.
    "int64": ("(int64[N, 6] words) => (float[N, 6, 8] y) { rows = Gather (table, words) y = MatMul (rows, w) }"),
    # A branch that depends on the data.
    "control_flow": (
        "(float[N, 4] x) => (float[N, 4] y) { total = ReduceSum <keepdims = 0> (x) positive = Greater (total, zero) "
        "y = If (positive) <then_branch = a () => (float[N, 4] p) { p = Relu (x) }, "
        "else_branch = b () => (float[N, 4] q) { q = Neg (x) }> }"
    ),
    # Text, which OpenVINO and TensorRT do not have.
    "text": "(string[N, 2] words) => (string[N, 2] same) { same = Identity (words) }",
    # A sequence between two nodes.
    "sequence": (
        "(float[N, 4] x) => (float[N, 8] y) { "
        "both = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 1> (both) }"
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_model_is_searched_too_and_what_cannot_take_it_says_why(name, plansmith, repository, tmp_path):
    model = onnx.parser.parse_model(f"{HEADER} {name} {UNUSUAL[name]}")
    rng = np.random.default_rng(0)
    weights = {"table": rng.standard_normal((10, 16)), "w": rng.standard_normal((16, 8)), "zero": np.zeros(())}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items() if name in read
    )
    onnx.save(model, tmp_path / f"{name}.onnx")
    done = plansmith(
        *("build", tmp_path / f"{name}.onnx", "--data", "random:16", "--max-drop", "5%", "--repository", repository),
        *("--no-serve", "--json"),
    )
    result = json.loads(done.stdout)
    assert len(candidates(result, status="chosen")) == 1
    for entry in candidates(result, device="cpu"):
        assert entry["rows_per_second"] or entry["reason"]
    assert "0 errors" in plansmith("verify", repository).stdout


def test_class_folders_become_labels_and_the_manifest_says_how_images_became_rows(plansmith, tmp_path, repository):
    for number, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for shade in range(8):
            colour = [10 * shade] * 3
            colour[number] = 255 - shade
            Image.new("RGB", (8, 8), tuple(colour)).save(tmp_path / "pictures" / name / f"{shade}.png")
    model = write(
        tmp_path / "colours.onnx",
        "m (float[N, 3, 8, 8] x) => (float[N, 3] y) { p = GlobalAveragePool (x) y = Flatten (p) }",
    )
    words = ("build", model, "--repository", repository, "--data", tmp_path / "pictures", "--preprocess", "scale=1/255")
    said = plansmith(*words, "--target", "onnxruntime", "--precision", "fp32", "--no-serve", "--json").stdout
    manifest = json.loads(said)["manifest"]
    assert manifest["search"]["preprocessing"]["scale"] == pytest.approx([1 / 255])
    assert manifest["search"]["fp32"]["top1"] == 1.0
    assert (repository / "colours" / "labels.txt").read_text() == "ant\nbee\ncat\n"
    for name in ("config.pbtxt", "configs/cpu.pbtxt"):
        text = (repository / "colours" / name).read_text()
        assert 'label_filename: "labels.txt"' in text
        # Clients prepare their images by it.
        assert "plansmith_preprocessing" in text
    assert "0 errors, 0 warnings" in plansmith("verify", repository).stdout
    refused = ("build", model, "--repository", repository, "--preprocess", "channels=GRAY,layout=NHW", "--no-serve")
    assert "change size, layout or channels" in plansmith(*refused, expect=2).stderr
