"""Models that remember: `--state` has a server keep what one run gives for the next run of the same sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest

from plansmith_build import BuildOptions, InvalidOption, build
from plansmith_build.portable.sequence_states import State, find_states
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.config import config_from_text

# As PyTorch exports recurrent networks: the state's rows are its second dimension.
MEMORY = """
<ir_version: 10, opset_import: ["" : 17]>
memory (float[%s, 3] x, float[2, %s, 3] state) => (float[%s, 3] y, float[2, %s, 3] stateN)
<float half = {0.5}, int64[1] axes = {0}, int64[1] first = {0}, int64[1] last = {1}, int64[1] end = {2}>
{
  newest = Unsqueeze (x, axes)
  before = Slice (state, first, last, axes)
  older = Mul (before, half)
  mixed = Add (newest, older)
  rest = Slice (state, last, end, axes)
  other = Add (rest, before)
  stateN = Concat <axis = 0> (mixed, other)
  both = Add (mixed, other)
  y = Squeeze (both, axes)
}
"""


@pytest.fixture
def memory(tmp_path):
    def write(rows: str):
        path = tmp_path / "memory.onnx"
        onnx.save(onnx.parser.parse_model(MEMORY % ((rows,) * 4)), path)
        return path

    return write


def states_of(path, *wanted: str):
    return find_states(signature_of(load_onnx(path).network.model), wanted)


@pytest.mark.parametrize("rows", ["1", "batch"])
def test_a_model_is_served_with_its_state_kept_and_its_rows_batched(rows, memory, tmp_path):
    serve = rows == "1"
    built = build(memory(rows), BuildOptions(tmp_path / "repository", states=("auto",), serve=serve))
    assert [[spec.name for spec in side] for side in (built.manifest.inputs, built.manifest.outputs)] == [["x"], ["y"]]
    assert built.manifest.server_trial.served == (("config.pbtxt",) if serve else ())
    config = config_from_text((built.path.parent / "config.pbtxt").read_text())
    assert config.max_batch_size == 32
    assert not config.HasField("dynamic_batching")
    (state,) = config.sequence_batching.state
    assert (state.input_name, state.output_name, list(state.dims)) == ("state", "stateN", [2, 3])
    assert state.initial_state[0].zero_data
    # A second version has the same clients.
    assert build(memory(rows), BuildOptions(tmp_path / "repository", states=("auto",), serve=False)).version == 2


def test_pairs_are_found_by_their_names_or_named(memory, tmp_path):
    assert states_of(memory("batch"), "auto") == (State("state", "stateN", moved=1),)
    assert states_of(memory("1"), "state=stateN") == (State("state", "stateN", moved=1),)
    # Where it is not certain which dimension counts rows, none is moved.
    assert states_of(memory("2"), "auto") == (State("state", "stateN"),)
    lstm = (
        '<ir_version: 10, opset_import: ["" : 17]> g (float[1] x, float[1] h, float[1] c0) => (float[1] y, float[1] hn,'
    )
    lstm += " float[1] cn) { y = Neg (x) hn = Neg (h) cn = Neg (c0) }"
    onnx.save(onnx.parser.parse_model(lstm), tmp_path / "lstm.onnx")
    assert states_of(tmp_path / "lstm.onnx", "auto") == (State("h", "hn"), State("c0", "cn"))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (["state"], "--state state= names no input and output of the model: inputs are x, state, outputs y, stateN"),
        (["state=y"], r"output 'y' \(FP32 .*\) cannot be the next state of input 'state'"),
        (["x=y", "state=stateN"], "--state leaves no input for requests"),
        (["state=stateN", "state=stateN"], "or names one twice"),
        (["auto", "state=stateN"], "--state auto stands alone"),
    ],
)
def test_a_pair_that_cannot_be_a_state_is_refused(wanted, reason, memory):
    with pytest.raises(InvalidOption, match=reason):
        states_of(memory("batch"), *wanted)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("(float[1] x, float[1] h) => (float[1] hn) { hn = Add (x, h) }", "--state leaves no output for answers"),
        (
            "(float[1] x, float[1] h = {2}) => (float[1] y, float[1] hn) { y = Neg (x) hn = Add (x, h) }",
            "input 'h' has a default in the file",
        ),
    ],
)
def test_a_model_without_an_answer_or_a_first_state_of_zeros_is_refused(graph, reason, tmp_path):
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> g {graph}'), tmp_path / "g.onnx")
    with pytest.raises(InvalidOption, match=reason):
        states_of(tmp_path / "g.onnx", "h=hn")


def test_a_state_whose_size_nobody_knows_is_refused(tmp_path):
    grows = '<ir_version: 10, opset_import: ["" : 17]> g (float[1, 1] x, float[1, n] past) => (float[1, 1] y,'
    grows += " float[1, m] past_out) { y = Neg (x) past_out = Concat <axis = 1> (past, x) }"
    onnx.save(onnx.parser.parse_model(grows), tmp_path / "grows.onnx")
    with pytest.raises(InvalidOption, match=r"state 'past' \(FP32 .*\) has a dimension of any size"):
        build(tmp_path / "grows.onnx", BuildOptions(tmp_path / "r", states=("auto",), serve=False))
    assert np.all([not path.name.isdigit() for path in (tmp_path / "r").rglob("*")])


def test_a_state_of_any_number_of_rows_without_batches_is_refused_with_that_reason(memory, tmp_path):
    model, options = memory("batch"), BuildOptions(tmp_path / "r", states=("auto",), serve=False, max_batch_size=0)
    with pytest.raises(InvalidOption, match=r"state 'state' .* has any number of rows .* are not batched"):
        build(model, options)


def test_a_model_of_sequences_replaces_one_without_and_the_reverse_only_when_asked(memory, tmp_path):
    # Clients send and get the same tensors.
    plain = '<ir_version: 10, opset_import: ["" : 17]> g (float[batch, 3] x) => (float[batch, 3] y) { y = Neg (x) }'
    onnx.save(onnx.parser.parse_model(plain), tmp_path / "plain.onnx")
    one = BuildOptions(tmp_path / "r", name="one", serve=False)
    build(tmp_path / "plain.onnx", one)
    stateful = replace(one, states=("auto",))
    with pytest.raises(InvalidOption, match=r"its requests belong to sequences now; .* with --replace"):
        build(memory("batch"), stateful)
    build(memory("batch"), replace(stateful, replace=True))
    with pytest.raises(InvalidOption, match=r"its requests belong to sequences no longer; .* with --replace"):
        build(tmp_path / "plain.onnx", one)


def test_what_cannot_be_combined_with_states_is_said(memory, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    with pytest.raises(InvalidOption, match="--state cannot be used with --labels"):
        build(memory("1"), BuildOptions(tmp_path / "r", states=("auto",), labels=labels, serve=False))
