"""`plansmith check`: what every engine says to a file, before anything is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import HEADER, snapshot, write
from onnx import numpy_helper

DIGITS = Path(__file__).parents[2] / "model_repository" / "digits" / "1" / "model.onnx"


def answers(done, **wanted):
    return [
        entry
        for entry in json.loads(done.stdout)["answers"]
        if all(entry[key] == value for key, value in wanted.items())
    ]


def write_unsigned(path):
    """Quantized as x86 CPUs want it: unsigned, with a zero point."""
    model = onnx.parser.parse_model(
        f"{HEADER} m (float[N, 64] x) => (float[N, 64] y) {{ q = QuantizeLinear (x, s, z) "
        "a = DequantizeLinear (q, s, z) b = DequantizeLinear (w, s, zw) y = MatMul (a, b) }"
    )
    weights = np.random.default_rng(0).integers(-100, 100, (64, 64)).astype(np.int8)
    constants = {"s": np.float32(0.05), "z": np.uint8(128), "zw": np.int8(0), "w": weights}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.save(model, path)
    return path


def test_every_engine_is_asked_and_nothing_is_published(plansmith, tmp_path):
    done = plansmith("check", DIGITS, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (report["nodes"], report["max_batch_size"]) == (8, 32)
    assert {entry["precision"] for entry in answers(done, target="tensorrt", verdict="yes")} == {
        *("fp32", "fp16", "bf16", "int8", "int8-fp16")
    }
    for target in ("onnxruntime", "openvino"):
        (entry,) = answers(done, target=target, device="cpu", precision="fp32")
        assert entry["verdict"] == "yes"
        assert entry["relative_error"] < 1e-5
    for entry in answers(done, target="tensorrt"):
        assert entry["size"] > 10_000
        assert entry["said"].startswith("compiles, by TensorRT for RTX 1.7.1 for Ampere and later")
    assert not list(tmp_path.iterdir())


def test_the_table_fits_a_terminal_of_80_columns():
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("plansmith"), "check", DIGITS, "--target", "tensorrt"),
            *("--compute-capability", "8.6,8.9,12.0"),
        ],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "8.6, 8.9 and 12.0" in " ".join(done.stdout.split())
    # The name of a target is never cut.
    assert "tensorrt " in done.stdout


def test_what_is_quantized_for_cpus_is_taken_by_every_engine(plansmith, tmp_path):
    done = plansmith("check", write_unsigned(tmp_path / "x86.onnx"), "--precision", "fp32", "--json")
    verdicts = {entry["target"]: entry["verdict"] for entry in answers(done) if entry["device"] != "gpu"}
    assert (verdicts["onnxruntime"], verdicts["openvino"]) == ("yes", "yes")
    assert [entry["verdict"] for entry in answers(done, target="tensorrt")] == ["yes"]


def test_weights_of_4_bits_run_on_cpus_and_are_refused_for_gpus(plansmith):
    said = {
        (one["target"], one["device"]): one
        for one in answers(plansmith("check", DIGITS, "--precision", "w4", "--json"))
    }
    for engine in ("onnxruntime", "openvino"):
        assert said[engine, "cpu"]["verdict"] == "yes"
    assert "w4 is for CPUs: ask for w4a16" in said["tensorrt", "gpu"]["said"]


def test_an_engine_that_was_asked_for_and_refuses_everything_ends_with_3(plansmith, tmp_path):
    model = write(tmp_path / "det.onnx", "m (float[N, 3, 3] x) => (float[N] y) { y = Det (x) }")
    before = snapshot(tmp_path)
    done = plansmith("check", model, "--target", "tensorrt", "--precision", "fp32", "--json", expect=3)
    assert "TensorRT for RTX has no Det" in answers(done)[0]["said"]
    plansmith("check", model, "--target", "onnxruntime", "--precision", "fp32")
    assert snapshot(tmp_path) == before


def test_a_model_without_batches_says_why(plansmith, tmp_path):
    model = write(tmp_path / "fixed.onnx", "m (float[4, 4] x) => (float[4, 4] y) { y = MatMul (x, x) }")
    report = json.loads(plansmith("check", model, "--precision", "fp32", "--json").stdout)
    assert report["max_batch_size"] == 0
    assert report["batching"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--compute-capability", "9.0"), "TensorRT for RTX compiles for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        (("--profile", "pictures:1x8x8,2x8x8,32x8x8"), "the model has the inputs images"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, said, plansmith):
    assert said in plansmith("check", DIGITS, *words, expect=2).stderr


def test_what_is_no_model_is_refused_by_what_it_is(plansmith, tmp_path):
    for tag, said in {b"ftrt": "a TensorRT plan", b"vtrt": "an engine of TensorRT for RTX"}.items():
        (tmp_path / "model.onnx").write_bytes(tag + bytes(64))
        assert said in plansmith("check", tmp_path / "model.onnx", expect=2).stderr
