"""Profiles of text models: as many tokens as the model itself takes, and configurations that say the same."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import HEADER
from onnx import numpy_helper

from plansmith_build.engines.onnxruntime import Session
from plansmith_build.engines.tensorrt import find_token_range, fix_dims, profile_for, provider_profile
from plansmith_build.engines.tensorrt.token_axes import token_axes
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.config import config_from_text, model_config

POSITIONS = 100
ENCODER = """m (int64[N, L] ids, float[N, L] mask) => (float[N, 16] y) {
  tokens = Gather (table, ids)
  shape = Shape <start = 1, end = 2> (ids)
  positions = Slice (places, zero, shape, zero)
  placed = Add (tokens, positions)
  wide = Unsqueeze (mask, last)
  kept = Mul (placed, wide)
  h = MatMul (kept, w)
  y = ReduceMean <axes = [1], keepdims = 0> (h)
}"""


@pytest.fixture(scope="module")
def encoder():
    """A text encoder of a hundred positions at most."""
    model = onnx.parser.parse_model(HEADER + ENCODER)
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.standard_normal((50, 16)).astype(np.float32),
        "places": rng.standard_normal((POSITIONS, 16)).astype(np.float32),
        "w": rng.standard_normal((16, 16)).astype(np.float32),
        "zero": np.array([0]),
        "last": np.array([-1]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def request(rows=3, tokens=12):
    return {"ids": np.ones((rows, tokens), np.int64), "mask": np.ones((rows, tokens), np.float32)}


def test_the_range_of_tokens_is_what_the_model_itself_answers(encoder):
    signature = signature_of(encoder)
    # The mask is of floating point, and its second dimension is called as that of the words.
    assert token_axes(signature) == {("ids", 1), ("mask", 1)}
    session = Session(encoder.SerializeToString(), signature, optimized=True)
    found = find_token_range(signature, request(), session.run)
    assert found == (1, 64)
    profile = profile_for(signature, max_batch_size=8, observed={"ids": (3, 12), "mask": (3, 12)}, tokens=found)
    assert profile.minimum == {"ids": (1, 1), "mask": (1, 1)}
    assert profile.optimum == {"ids": (8, 12), "mask": (8, 12)}
    assert profile.maximum == {"ids": (8, 64), "mask": (8, 64)}


def test_pictures_of_any_size_have_no_tokens():
    images = "m (float[N, 3, H, W] images) => (float[N, 3, H, W] y) { y = Relu (images) }"
    signature = signature_of(onnx.parser.parse_model(HEADER + images))
    assert token_axes(signature) == frozenset()
    assert find_token_range(signature, {"images": np.zeros((1, 3, 8, 8), np.float32)}, lambda _: {}) is None


def test_what_a_profile_fixes_stands_in_dims_and_what_it_does_not_stays_free(encoder):
    signature = signature_of(encoder)
    for tokens, dims in {None: [12], (1, 64): [-1]}.items():
        config = model_config("m", signature, max_batch_size=8)
        profile = profile_for(signature, max_batch_size=8, observed={"ids": (3, 12), "mask": (3, 12)}, tokens=tokens)
        fix_dims(config, profile)
        assert [list(tensor.dims) for tensor in config.input] == [dims, dims]


def test_texts_of_the_data_that_are_longer_than_most_fit_the_profile(encoder):
    profile = profile_for(
        signature_of(encoder),
        max_batch_size=8,
        observed={"ids": (3, 30), "mask": (3, 30)},
        extremes={"ids": ((3, 2), (3, 90)), "mask": ((3, 2), (3, 90))},
        tokens=(4, 64),
    )
    assert profile.minimum == {"ids": (1, 2), "mask": (1, 2)}
    assert profile.maximum == {"ids": (8, 90), "mask": (8, 90)}


def test_onnx_runtimes_provider_is_told_every_shape(encoder):
    profile = profile_for(
        signature_of(encoder), max_batch_size=8, observed={"ids": (3, 12), "mask": (3, 12)}, tokens=(1, 64)
    )
    assert provider_profile(profile) == {
        "trt_profile_min_shapes": "ids:1x1,mask:1x1",
        "trt_profile_opt_shapes": "ids:8x12,mask:8x12",
        "trt_profile_max_shapes": "ids:8x64,mask:8x64",
    }


def test_a_text_model_is_compiled_and_configured_for_sentences_of_any_length(encoder, plansmith, tmp_path):
    onnx.save(encoder, tmp_path / "encoder.onnx")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        ids=rng.integers(0, 50, (32, 12)),
        mask=np.ones((32, 12), np.float32),
    )
    repository = tmp_path / "model_repository"
    done = plansmith(
        *("build", tmp_path / "encoder.onnx", "--data", tmp_path / "data.npz", "--repository", repository),
        *("--target", "tensorrt", "--target", "tensorrt-rtx", "--precision", "fp16", "--max-drop", "10%"),
        *("--max-batch-size", "8", "--no-serve", "--json"),
    )
    for entry in json.loads(done.stdout)["manifest"]["search"]["candidates"]:
        assert entry["status"] == "compiled, not measured", entry
        assert entry["compiled"]["profile"]["ids"] == [[1, 1], [8, 12], [8, 64]]
    for name in ("gpu", "rtx"):
        config = config_from_text((repository / f"encoder/configs/{name}.pbtxt").read_text())
        assert [list(tensor.dims) for tensor in config.input] == [[-1], [-1]]
    (accelerator,) = config_from_text(
        (repository / "encoder/configs/gpu.pbtxt").read_text()
    ).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.parameters["trt_profile_max_shapes"] == "ids:8x64,mask:8x64"
    assert "0 errors" in plansmith("verify", repository).stdout
