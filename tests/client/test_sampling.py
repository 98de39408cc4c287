"""Random inputs are valid for any specification, repeatable, and of plain values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plansmith_client import InvalidInput, ModelMetadata, TensorSpec
from plansmith_client.inputs.validation import check_inputs
from plansmith_client.sampling import DYNAMIC_SIZE, random_array, random_inputs
from plansmith_client.tensors import DATATYPES

SPECS = st.lists(
    st.builds(
        TensorSpec,
        st.uuids().map(str),
        st.sampled_from(DATATYPES),
        st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=4,
)


@given(specs=SPECS, seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_random_inputs_pass_the_checks_of_any_model(specs, seed):
    inputs = random_inputs(specs, seed=seed)
    metadata = ModelMetadata("m", ("1",), "", tuple(specs), ())
    for tensor, spec in zip(check_inputs(metadata, inputs), specs, strict=True):
        assert tensor.array is inputs[spec.name] or spec.datatype == "BYTES"
        assert tensor.array.dtype == spec.numpy_dtype


@given(batch=st.integers(1, 8))
@settings(deadline=None)
def test_the_batch_is_the_first_dimension_of_every_input(batch):
    specs = (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "INT64", (-1, -1)), TensorSpec("c", "BYTES", (-1,)))
    shapes = {name: array.shape for name, array in random_inputs(specs, batch=batch).items()}
    assert shapes == {"a": (batch, 3), "b": (batch, DYNAMIC_SIZE), "c": (batch,)}
    check_inputs(ModelMetadata("m", (), "", specs, (), max_batch_size=batch), random_inputs(specs, batch=batch))


def test_a_dynamic_first_dimension_is_one_unless_told():
    assert random_inputs([TensorSpec("a", "FP32", (-1, -1))])["a"].shape == (1, DYNAMIC_SIZE)


def test_dynamic_dimensions_can_be_given_for_all_by_input_and_by_axis():
    specs = [TensorSpec("a", "FP32", (-1, -1, -1)), TensorSpec("b", "INT8", (2, -1))]
    assert [array.shape for array in random_inputs(specs, dynamic=5).values()] == [(1, 5, 5), (2, 5)]
    shapes = [array.shape for array in random_inputs(specs, dynamic={"a": {1: 7, 0: 3}, "b": 4}).values()]
    assert shapes == [(3, 7, DYNAMIC_SIZE), (2, 4)]


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others():
    specs = [TensorSpec(datatype, datatype, (4, 8)) for datatype in DATATYPES]
    first, again, other = (random_inputs(specs, seed=seed) for seed in (1, 1, 2))
    for spec in specs:
        assert first[spec.name].tolist() == again[spec.name].tolist()
        assert first[spec.name].tolist() != other[spec.name].tolist()


def test_values_are_plain():
    rng = np.random.default_rng(0)
    floats = random_array(TensorSpec("x", "FP32", (10_000,)), rng=rng)
    assert abs(floats.mean()) < 0.1
    assert abs(floats.std() - 1) < 0.1
    for datatype in ("INT8", "UINT64"):
        integers = random_array(TensorSpec("x", datatype, (1000,)), rng=rng)
        assert (integers.min(), integers.max()) == (0, 9)
    assert set(random_array(TensorSpec("x", "BOOL", (100,)), rng=rng).tolist()) == {True, False}
    words = random_array(TensorSpec("x", "BYTES", (100,)), rng=rng).tolist()
    assert all(type(word) is bytes and word.isalpha() for word in words)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 4), {"batch": 2}),
        ((), {"batch": 1}),
        ((-1,), {"batch": 0}),
        ((-1, 4), {"dynamic": {1: 5}}),
        ((-1,), {"dynamic": {3: 5}}),
        ((2, -1), {"dynamic": -1}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, options):
    with pytest.raises(InvalidInput, match="'x'"):
        random_array(TensorSpec("x", "FP32", shape), rng=np.random.default_rng(0), **options)
