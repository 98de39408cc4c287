"""INT8 by the method that suits the network and the engine: static, dynamic, or NNCF's for transformers."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest
from build_models import HEADER
from onnx import numpy_helper
from stripes_models import write_stripes_classifier
from transformer_models import small_transformer, word_ids

from plansmith_build.engines.onnxruntime import Session
from plansmith_build.judging.budget import Budget
from plansmith_build.judging.judge import Judge
from plansmith_build.precision import variants
from plansmith_build.precision.calibration import CalibrationMethod
from plansmith_build.precision.dynamic import dynamic_conversion
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.post_training import has_attention, transformer_conversion
from plansmith_build.precision.preparation import QUANTIZATION_OPSET, prepare
from plansmith_build.precision.quantization import work_of
from plansmith_build.precision.schemes import x86_scheme
from plansmith_build.precision.variants import Judges, inside_budget, static_conversion
from plansmith_build.precision.weight_blocks import block_conversion, computes_with_matrices
from plansmith_build.reading.networks import detach
from plansmith_build.reading.signatures import signature_of

X86 = x86_scheme(vnni=True)


def judges_for(model, requests, *, max_error, batched=True):
    signature = signature_of(model)
    session = Session(model.SerializeToString(), signature, optimized=True)
    judges = [Judge.of(session, part, None, batched=batched) for part in (requests[::2], requests[1::2])]
    return Judges(signature, *judges, Budget(max_error=max_error))


@pytest.fixture(scope="module")
def transformer():
    return prepare(detach(small_transformer()), opset=QUANTIZATION_OPSET)


@pytest.fixture
def transformer_judges(transformer):
    requests = [{"ids": word_ids(4, 12, seed=seed)} for seed in range(16)]
    return partial(judges_for, transformer, requests)


def by_nncf(prepared, judges):
    with transformer_conversion(prepared, judges) as conversion:
        return inside_budget(conversion, judges)


def operators(model):
    return {node.op_type for node in model.graph.node}


def test_a_transformer_is_told_from_other_networks(transformer, tmp_path):
    assert has_attention(transformer)
    assert not has_attention(onnx.load(write_stripes_classifier(tmp_path / "stripes.onnx")))
    # A classifier's softmax is multiplied with nothing that was computed.
    head = onnx.parser.parse_model(
        f"{HEADER} m (float[N, 4] x) => (float[N, 2] y) {{ p = Softmax (x) y = MatMul (p, w) }}"
    )
    head.graph.initializer.append(numpy_helper.from_array(np.ones((4, 2), np.float32), "w"))
    assert not has_attention(head)


def test_int8_of_a_transformer_keeps_what_plain_ranges_lose(transformer, transformer_judges):
    judges = transformer_judges(max_error=0.1)
    variant = by_nncf(transformer, judges)
    onnx.checker.check_model(variant.model, full_check=True)
    assert judges.accepts(variant.accuracy)
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(variant.model)
    assert "NNCF" in variant.layout
    stored = [tensor for tensor in variant.model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(len(tensor.dims) == 2 for tensor in stored) >= 10
    wide = transformer_judges(max_error=10)
    plain = inside_budget(static_conversion(transformer, X86, wide, [CalibrationMethod.MINMAX]), wide)
    assert judges.use(plain.accuracy) > 2 * judges.use(variant.accuracy)


def test_layers_that_lose_too_much_are_put_back_with_their_weights(transformer, transformer_judges, monkeypatch):
    # As many looks on a busy machine as on a quiet one.
    monkeypatch.setattr(variants, "SECONDS_TO_RANK", 3600)
    monkeypatch.setattr(variants, "EVALUATIONS", 6)
    wide = transformer_judges(max_error=1.0)
    whole = by_nncf(transformer, wide)
    assert whole.kept == ()
    tight = transformer_judges(max_error=0.7 * wide.use(whole.accuracy))
    variant = by_nncf(transformer, tight)
    assert variant.kept
    assert tight.use(variant.accuracy) < tight.use(whole.accuracy)
    assert tight.estimate(variant.model)[0] <= 1
    assert "QuantizeLinear" in operators(variant.model)
    stored = {tensor.name: tensor.data_type for tensor in variant.model.graph.initializer}
    kept = [node for node in variant.model.graph.node if node.name in variant.kept]
    assert {stored[name] for node in kept for name in node.input if name in stored} == {onnx.TensorProto.FLOAT}


@pytest.fixture(scope="module")
def matrices():
    model = onnx.parser.parse_model(
        f"{HEADER} m (float[32] x) => (float[8] y) {{ a = MatMul (x, w0) r = Relu (a) y = MatMul (r, w1) }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (32, 64), "w1": (64, 8)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return prepare(detach(model), opset=QUANTIZATION_OPSET)


def test_ranges_from_what_is_asked_only_where_nothing_is_served_in_batches(matrices, transformer, transformer_judges):
    rng = np.random.default_rng(1)
    # One row in eight is far larger than those that ranges could be taken from.
    requests = [{"x": (rng.standard_normal(32) * (50 if n % 8 == 7 else 1)).astype(np.float32)} for n in range(32)]
    judges = judges_for(matrices, requests, max_error=0.1, batched=False)
    variant = inside_budget(dynamic_conversion(matrices, judges, vnni=True), judges)
    assert judges.accepts(variant.accuracy)
    assert "DynamicQuantizeLinear" in operators(variant.model)
    assert "dynamic ranges" in variant.layout
    with pytest.raises(ConversionFailed, match="a whole batch"):
        dynamic_conversion(transformer, transformer_judges(max_error=0.1), vnni=True)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_in_blocks_keep_each_row_as_it_is_alone(transformer, transformer_judges, bits):
    judges = transformer_judges(max_error=0.05 if bits == 8 else 0.5)
    variant = inside_budget(block_conversion(transformer, bits=bits), judges)
    assert judges.accepts(variant.accuracy)
    assert "MatMulNBits" in operators(variant.model)
    assert variant.layout.startswith(f"INT{bits} weights in blocks")
    session = Session(variant.model.SerializeToString(), judges.signature, optimized=True)
    request = judges.final.requests[0]
    together = session.run(request)
    rows = [
        session.run({name: array[n : n + 1] for name, array in request.items()}) for n in range(len(request["ids"]))
    ]
    for name, array in together.items():
        np.testing.assert_allclose(array, np.concatenate([row[name] for row in rows]), rtol=0, atol=1e-4)


def test_blocks_are_for_networks_that_compute_with_matrices(transformer, tmp_path):
    assert computes_with_matrices(transformer)
    assert not computes_with_matrices(onnx.load(write_stripes_classifier(tmp_path / "stripes.onnx")))


def test_a_gemm_is_taken_as_the_matrix_that_it_is():
    layers = "a = Gemm <transB = 1> (x, w0, b) r = Relu (a) y = Gemm (r, w1)"
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, 256] x) => (float[N, 8] y) {{ {layers} }}")
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (64, 256), "b": (64,), "w1": (64, 8)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    prepared = prepare(detach(model), opset=QUANTIZATION_OPSET)
    requests = [{"x": rng.standard_normal((4, 256)).astype(np.float32)} for _ in range(8)]
    variant = inside_budget(block_conversion(prepared, bits=8), judges_for(prepared, requests, max_error=0.05))
    onnx.checker.check_model(variant.model)
    assert operators(variant.model) == {"Add", "MatMulNBits", "Relu"}
    assert variant.accuracy.noise < 0.05


def test_the_work_of_layers_is_what_they_multiply(matrices, tmp_path):
    assert list(work_of(matrices).values()) == [32 * 64, 64 * 8]
    path = write_stripes_classifier(tmp_path / "stripes.onnx")
    work = work_of(prepare(detach(onnx.load(path)), opset=QUANTIZATION_OPSET))
    assert work == {
        "first": 32 * 3 * 9 * 16 * 16,
        "middle": 32 * 32 * 9 * 16 * 16,
        "last": 32 * 32 * 9 * 16 * 16,
        "classifier": 4 * 32,
    }


def test_a_transformer_on_openvino_has_the_faster_of_two_methods_and_the_manifest_names_both(
    plansmith, tmp_path, repository
):
    onnx.save(small_transformer(), tmp_path / "small.onnx")
    np.savez(tmp_path / "ids.npz", ids=word_ids(96, 12, seed=3))
    done = plansmith(
        *("build", tmp_path / "small.onnx", "--data", tmp_path / "ids.npz", "--max-error", "20%", "--no-serve"),
        *("--target", "openvino", "--precision", "int8", "--repository", repository, "--json"),
    )
    (made,) = json.loads(done.stdout)["manifest"]["search"]["candidates"]
    assert made["status"] == "chosen"
    (chosen,) = (name for name, said in {"nncf": "NNCF", "blocks": "in blocks"}.items() if said in made["layout"])
    assert made["file"] == f"model.int8.{chosen}.onnx"
    other, _, ratio = made["reason"].removesuffix(" of FP32").partition(": ")
    assert {chosen, other.lower()} == {"nncf", "blocks"}
    assert float(ratio) <= made["ratio_to_fp32"] + 0.005
