"""A model takes batches only where a row is a row: each one answered with one row, and as if it were alone."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from build_models import HEADER, built_model, model_of, write
from onnx import TensorProto, helper

from plansmith_build import BuildOptions, build
from plansmith_build.portable.batch_obstacles import BatchAxis
from plansmith_build.repository.config import config_from_text
from plansmith_build.search.graph_variants import GraphVariants
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Precision, Target
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# Each with a part of the reason; an empty one where the model does take batches.
KINDS = {
    "rows": ("m (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }", ""),
    "numbers_of_exporters": (
        "m (float[unk__1, 3] x, float[unk__2, 3] z) => (float[unk__3, 3] y) { y = Add (x, z) }",
        "",
    ),
    "another_name_for_the_same": ("m (float[batch, 3] x) => (float[out_rows, 3] y) { y = Relu (x) }", ""),
    "one_number_a_row": ("m (float[N] x) => (float[N] y) { y = Relu (x) }", ""),
    "lengths_beside_rows": (
        (
            "m (float[N, 3] x, int64[N] n) => (float[N, 3] y) <int64[1] axis = {1}>"
            " { f = Cast <to = 1> (n) u = Unsqueeze (f, axis) y = Mul (x, u) }"
        ),
        "",
    ),
    "a_mask": ("m (float[N, 4] x) => (float[N, 4] y) <float z = {0}> { m = Greater (x, z) y = Where (m, x, z) }", ""),
    "small_values_cut_off": (
        (
            "m (float[N, 3] x) => (float[N, 3] y) <float z = {50}> { m = Greater (x, z) f = Cast <to = 1> (m)"
            " y = Mul (f, x) }"
        ),
        "",
    ),
    "other_rows": ("m (float[4, 3] x) => (float[3, 4] y) <int64[2] s = {3, 4}> { y = Reshape (x, s) }", "3 rows for 4"),
    "inputs_of_other_sizes": (
        "m (float[1, 3] x, float[2, 3] z) => (float[2, 3] y) { y = Add (x, z) }",
        "different first dimensions",
    ),
    "a_single_number": ("m (float[N, 2] x, float z) => (float[N, 2] y) { y = Add (x, z) }", "single number"),
    "less_their_mean": (
        "m (float[2, 3] x) => (float[2, 3] y) { mean = ReduceMean <axes = [0]> (x) y = Sub (x, mean) }",
        "(ReduceMean) takes one value from all rows of a batch",
    ),
    "found_places": ("m (float[N, 2] x) => (int64[2, K] y) { y = NonZero (x) }", "NonZero) decides it"),
    "found_values": ("m (float[N] x) => (float[U] y) { y = Unique (x) }", "Unique) decides it"),
    "selected_rows": (
        (
            "m (float[N, 2] x) => (float[K, 2] y) <float z = {5}, int64[1] axis = {1}>"
            " { s = ReduceSum <keepdims = 0> (x, axis) m = Greater (s, z) y = Compress <axis = 0> (x, m) }"
        ),
        "Compress) decides it",
    ),
    "as_many_as_were_counted": (
        (
            "m (float[N, 2] x) => (float[K, 2] y) <int64[1] one = {1}> { m = ReduceMax <keepdims = 0> (x) a = Abs (m)"
            " k = Cast <to = 7> (a) l = Reshape (k, one) c = Add (l, one) y, i = TopK <axis = 0> (x, c) }"
        ),
        "TopK) decides it",
    ),
    "a_name_that_says_something_else": (
        "m (float[batch, 4] x) => (float[num_det, 2] y) <int64[2] s = {-1, 2}> { y = Reshape (x, s) }",
        "output 'y' has 'num_det' rows for 'batch' in the input",
    ),
    "inputs_of_different_names": (
        "m (float[batch, 3] x, float[boxes, 3] z) => (float[batch, 3] y) { y = Add (x, z) }",
        "the first dimensions of the inputs have different names: 'x' 'batch', 'z' 'boxes'",
    ),
    "a_square": ("m (float[n, n] x) => (float[n, n] y) { y = Transpose (x) }", "dimension 'n' of the rows is"),
    "a_vector": ("m (float[3] x) => (float[3] y) { y = Relu (x) }", "is a vector of 3 elements"),
    "a_sequence": ("m (float[T] x) => (float[T] y) { y = Relu (x) }", "every input is a sequence [T]"),
    "always_the_same": (
        "m (float[N, 3] x) => (float[M0, 3] y) <int64[2] s = {-1, 3}> { z = Sub (x, x) y = Reshape (z, s) }",
        "could not be told apart",
    ),
    "always_the_same_in_as_many_rows": ("m (float[N, 3] x) => (float[N, 3] y) { y = Sub (x, x) }", ""),
    "nothing_ever": (
        "m (float[N, 3] x) => (float[N, 0] y) <int64[1] o = {0}, int64[1] i = {1}> { y = Slice (x, o, o, i) }",
        "was empty for every input",
    ),
    # On random inputs no row is that large.
    "scaled_where_any_row_is_large": (
        (
            "m (float[N, 4] x) => (float[N, 4] y) <float t = {100}> { m = ReduceMax <keepdims = 0> (x) c = Max (m, t)"
            " y = Div (x, c) }"
        ),
        "(ReduceMax) takes one value from all rows of a batch",
    ),
    "scaled_by_the_largest_of_the_row": (
        (
            "m (float[N, 4] x) => (float[N, 4] y) <float t = {100}> { m = ReduceMax <axes = [1]> (x) c = Max (m, t)"
            " y = Div (x, c) }"
        ),
        "",
    ),
    "rows_normalized_together": (
        "m (float[N, 2] x) => (float[N, 2] y) { y = Softmax <axis = 0> (x) }",
        "is off by",
    ),
}


@pytest.fixture
def built(tmp_path, repository):
    """Builds a model, given as text or whole; gives the result and its configuration.

    No server tries each: one at the end has what Triton treats apart, and test_onnx_node_cases.py all kinds of models.
    """

    def run(model, *progress, **options):
        result = built_model(tmp_path, repository, model, *progress, **options)
        return result, config_from_text((result.path.parent / "config.pbtxt").read_text())

    return run


info = helper.make_tensor_value_info


def frames_of_sound():
    """Sound [T] to [4, frames], 400 samples and more."""
    weight = np.random.default_rng(0).standard_normal((4, 1, 400)).astype(np.float32)
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
        helper.make_node("Conv", ["u", "w"], ["c"], strides=[160]),
        helper.make_node("Squeeze", ["c", "first"], ["y"]),
    ]
    constants = {"w": weight, "axes": np.int64([0, 1]), "first": np.int64([0])}
    return model_of(nodes, [info("x", TensorProto.FLOAT, ["T"])], [info("y", TensorProto.FLOAT, [4, "F"])], constants)


def detector(rows, threshold):
    """Everything in `[rows, 10]` above a threshold, row after row: `[detections]`."""
    nodes = [
        helper.make_node("Greater", ["x", "threshold"], ["mask"]),
        helper.make_node("NonZero", ["mask"], ["where"]),
        helper.make_node("Transpose", ["where"], ["places"], perm=[1, 0]),
        helper.make_node("GatherND", ["x", "places"], ["scores"]),
    ]
    return model_of(
        nodes,
        [info("x", TensorProto.FLOAT, [rows, 10])],
        [info("scores", TensorProto.FLOAT, ["detections"])],
        {"threshold": np.float32(threshold)},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_taken_where_a_row_is_a_row_and_nowhere_else(built, kind):
    text, reason = KINDS[kind]
    result, config = built(text)
    assert (config.max_batch_size > 0) == (not reason)
    assert reason in result.manifest.batching.reason


@pytest.mark.parametrize("rows", ["N", 1])
@pytest.mark.parametrize("threshold", [0.5, 50.0, 1e9])
def test_detections_are_no_rows_whether_noise_has_some_or_not(built, rows, threshold):
    result, config = built(detector(rows, threshold))
    assert config.max_batch_size == 0
    assert "how many rows output 'scores' has depends on the data" in result.manifest.batching.reason


def test_sound_keeps_its_length_free_and_is_verified_at_several(built):
    result, config = built(frames_of_sound())
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1]
    assert result.manifest.verification.samples > 3


def test_the_user_may_say_which_dimension_is_the_batch(built):
    sequence, _ = KINDS["a_sequence"]
    assert built(sequence, batch_axis=BatchAxis.FIRST)[1].max_batch_size == 32
    rows, _ = KINDS["rows"]
    result, config = built(rows, batch_axis=BatchAxis.NONE, replace=True)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 3]
    assert "--batch-axis none" in result.manifest.batching.reason


def test_what_the_user_says_of_the_batch_is_verified_all_the_same(built):
    together, _ = KINDS["rows_normalized_together"]
    for model in (together, detector("N", 0.5)):
        assert built(model, batch_axis=BatchAxis.FIRST, replace=True)[1].max_batch_size == 0


def test_batch_axis_is_an_option_of_the_command(plansmith, tmp_path, repository):
    model = write(tmp_path / "model.onnx", KINDS["a_sequence"][0])
    plansmith("build", model, "--repository", repository, "--batch-axis", "0", "--no-serve")
    assert config_from_text((repository / "model" / "config.pbtxt").read_text()).max_batch_size == 32


def test_dynamic_quantization_is_read_off_the_graph(built):
    text = """m (float[N, 4] x) => (int64[N] y)
        { q, scale, zero = DynamicQuantizeLinear (x) f = DequantizeLinear (q, scale, zero)
          y = ArgMax <axis = 1, keepdims = 0> (f) }"""
    result, config = built(text)
    assert config.max_batch_size == 0
    assert "(DynamicQuantizeLinear) takes its scale from all rows of a batch" in result.manifest.batching.reason


def test_text_that_is_split_into_pieces_makes_rows_as_long_as_their_longest_neighbour(built):
    text = 'm (string[N] s) => (string[N, K] y, int64[N] z) { y, z = StringSplit <delimiter = ","> (s) }'
    result, config = built(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}'))
    assert config.max_batch_size == 0
    assert "(StringSplit) makes the answer to a row as long as" in result.manifest.batching.reason


def test_a_fixed_dimension_that_is_another_in_the_answers_is_declared_as_it_was_seen(built):
    result, config = built(
        "m (float[N, 3] x) => (int64[1] label, float[N, 3] p)"
        " { label = ArgMax <axis = 1, keepdims = 0> (x) p = Softmax <axis = 1> (x) }"
    )
    assert config.max_batch_size == 32
    assert any(
        "output 'label' as [-1]" in repair and "instead of [1]" in repair for repair in result.manifest.graph.repairs
    )
    session = onnxruntime.InferenceSession(result.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["label"], {"x": np.eye(3, dtype=np.float32)})[0].tolist() == [0, 1, 2]


def test_a_batch_that_the_users_data_refutes_is_not_taken(built, tmp_path):
    # A row that is beyond what noise reaches changes the answers to all others.
    text = """m (float[N, 3] x) => (float[N, 3] y) <float limit = {5000}, int64[1] one = {1}>
        { most, place = TopK <axis = 0> (x, one) far = Greater (most, limit)
          added = Cast <to = 1> (far) y = Add (x, added) }"""
    assert built(text)[1].max_batch_size == 32
    rows = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
    rows[::5] *= 1e4
    rows[::5] = np.abs(rows[::5])
    np.savez(tmp_path / "rows.npz", x=rows)
    search = SearchOptions(str(tmp_path / "rows.npz"), targets=(Target.ONNXRUNTIME,), precisions=(Precision.FP32,))
    result, config = built(text, search=search)
    assert config.max_batch_size == 0
    assert result.manifest.batching.reason.startswith("on rows.npz, with ")
    assert result.manifest.search is not None


def test_text_that_is_not_ascii_is_taken_from_data(built, tmp_path):
    text = "m (string[N, 1] x) => (string[N, 1] y) { y = Identity (x) }"
    np.savez(tmp_path / "rows.npz", x=np.array([["naïve"], ["日本語"], ["plain"], ["Größe"]]))
    search = SearchOptions(str(tmp_path / "rows.npz"), targets=(Target.ONNXRUNTIME,))
    result, _ = built(text, search=search, serve=True)
    assert result.manifest.search is not None


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8", "int32"])
def test_single_numbers_of_every_integer_type_are_sampled(built, kind):
    text = f"m (float[N, 2] x, {kind} flag) => (float[N, 2] y) {{ f = Cast <to = 1> (flag) y = Mul (x, f) }}"
    result, config = built(text, serve=kind == "uint8")
    assert list(config.input[1].dims) == [1]
    assert any("input 'flag'" in repair for repair in result.manifest.graph.repairs)


@pytest.mark.parametrize("domain", ["com.microsoft", "Paddle"])
def test_candidates_are_made_of_a_file_that_lists_an_unknown_domain(built, domain):
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", TensorProto.FLOAT, ["n", 8])],
        [info("y", TensorProto.FLOAT, ["n", 4])],
        {"w": weight},
    )
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 13), helper.make_opsetid(domain, 1)])
    search = SearchOptions(
        "random:32",
        targets=(Target.ONNXRUNTIME,),
        precisions=(Precision.FP32, Precision.INT8),
        max_drop=0.2,
    )
    result, _ = built(model, search=search)
    assert any(c.precision == "int8" and c.drop is not None for c in result.manifest.search.candidates)


def test_a_candidate_that_cannot_be_made_is_a_line_and_never_the_end_of_a_build(built, monkeypatch):
    def stumbles(*_):
        raise KeyError("tensor 7")

    monkeypatch.setattr(GraphVariants, "int8_whole", stumbles)
    search = SearchOptions("random:8", targets=(Target.ONNXRUNTIME,))
    steps = []
    result, _ = built(KINDS["rows"][0], steps.append, search=search)
    begun = [step.title for step in steps if step.title.startswith("Candidate ") and not step.outcome]
    assert len(begun) >= 2
    assert [title.partition(":")[0] for title in begun] == [
        f"Candidate {number} of {len(begun)}" for number in range(1, len(begun) + 1)
    ]
    reasons = {(c.precision, c.device): c.reason for c in result.manifest.search.candidates}
    assert reasons["int8", "cpu"] == "it could not be made: KeyError: 'tensor 7'"


SCALARS = {
    "scalar_in": (
        "m (float[n, 4] x, int64 rate) => (float[n, 4] y) { f = Cast <to = 1> (rate) y = Mul (x, f) }",
        {"rate": np.int64([3])},
        {"y": np.full((2, 4), 3, np.float32)},
    ),
    "scalar_out": (
        "m (float[n, 4] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }",
        {},
        {"y": np.float32([8])},
    ),
    "in_a_branch": (
        """m (float[n, 4] x, bool flag) => (float y) {
             y = If (flag) <
               then_branch = one () => (float t) { t = ReduceMax <keepdims = 0> (x) },
               else_branch = two () => (float e) { e = ReduceSum <keepdims = 0> (x) }
             >
           }""",
        {"flag": np.array([False])},
        {"y": np.float32([8])},
    ),
    "through": (
        "m (float[n, 4] x, float z) => (float[n, 4] y, float w) { y = Add (x, z) w = Neg (z) }",
        {"z": np.float32([2])},
        {"y": np.full((2, 4), 3, np.float32), "w": np.float32([-2])},
    ),
}


def test_a_real_server_loads_and_answers_what_has_single_numbers_or_detections(tmp_path, repository, plansmith):
    for name, (text, _, _) in SCALARS.items():
        build(write(tmp_path / f"{name}.onnx", text), BuildOptions(repository=repository, serve=False))
    for name, rows in {"free": "N", "fixed": 1}.items():
        onnx.save(detector(rows, 50.0), tmp_path / f"{name}.onnx")
        build(tmp_path / f"{name}.onnx", BuildOptions(repository=repository, serve=False))
    plansmith("verify", repository)
    many, none = np.zeros((1, 10), np.float32), np.zeros((1, 10), np.float32)
    many[0, :2] = 90, 80
    wrong = []
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server, Client(server.grpc_url) as client:
        for name, (_, given, expected) in SCALARS.items():
            answers = client.model(name).infer({"x": np.ones((2, 4), np.float32), **given})
            for output, array in expected.items():
                np.testing.assert_array_equal(answers[output], array)

        def ask(name, row):
            for _ in range(50):
                given = client.model(name)(row)["scores"]
                if not np.array_equal(given, row[row > 50]):
                    wrong.append((name, given))

        callers = [
            threading.Thread(target=ask, args=(name, row)) for name in ("free", "fixed") for row in [many, none] * 4
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert not wrong


def test_a_configuration_of_a_single_number_is_judged_as_a_server_judges_it(repository, plansmith):
    text = f"{HEADER} m (float x) => (float y) {{ y = Neg (x) }}"
    tensor = '{ name: "%s" data_type: TYPE_FP32 dims: 1 %s}'
    for name, reshape in {"right": "", "wrong": "reshape { } "}.items():
        (repository / name / "1").mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(text), repository / name / "1" / "model.onnx")
        (repository / name / "config.pbtxt").write_text(
            f'backend: "onnxruntime" input {tensor % ("x", reshape)} output {tensor % ("y", reshape)}'
        )
    said = plansmith("verify", repository, expect=3).stdout
    assert "write dims: [1] without reshape" in said
    assert "right/config.pbtxt" not in said
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server:
        states = {model.name: model.state for model in server.models()}
    assert states["right"] == "READY"
    assert states["wrong"] != "READY"
