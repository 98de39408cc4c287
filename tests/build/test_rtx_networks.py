"""NVIDIA's compiler takes every graph that is written for TensorRT: well-known networks, each in five precisions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from light_models import light_model_path, searched_light_model_names, with_random_weights

from plansmith_build.checking import CheckOptions, check
from plansmith_build.search.targets import Precision, Target

# The 45 engines of all nine take a core four minutes; a network each, so that one of them is told by its name.
pytestmark = pytest.mark.timeout(2400)

TENSORRT = CheckOptions(targets=(Target.TENSORRT,), max_batch_size=8)
# Its weights are made by nodes while it runs, and INT8 takes weights that are there.
WEIGHTS_MADE_BY_NODES = "light_bvlc_alexnet"


@pytest.mark.parametrize("name", searched_light_model_names())
def test_a_well_known_network_compiles_in_every_precision(name, tmp_path):
    report = check(light_model_path(name), TENSORRT)
    answers = {answer.precision: answer for answer in report.answers}
    if name == WEIGHTS_MADE_BY_NODES:
        assert "no Conv, Gemm or MatMul has constant weights" in answers["int8"].said
        int8 = replace(TENSORRT, precisions=(Precision.INT8, Precision.INT8_FP16))
        answers |= {answer.precision: answer for answer in check(with_random_weights(name, tmp_path), int8).answers}
    assert answers.keys() == {"fp32", "fp16", "bf16", "int8", "int8-fp16"}
    for answer in answers.values():
        assert answer.verdict == "yes", answer
        assert answer.size > 100_000
