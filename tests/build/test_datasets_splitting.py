"""Calibration and validation data are kept apart; random data is called so."""

from __future__ import annotations

import numpy as np
import pytest
from datasets_signatures import IMAGES, PAIR, TOKENS, WORDS, signature
from hypothesis import given
from hypothesis import strategies as st

from plansmith_build.datasets import Dataset, InvalidData, TooFewRows, load_dataset, split, without_rows_of
from plansmith_build.datasets.ragged import ragged


def dataset(rows, labels=None):
    array = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return Dataset({"x": array}, None if labels is None else np.asarray(labels), "x.npz", "0" * 64, "npz", batched=True)


@given(
    rows=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda rows: len(set(rows)) > 1),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_every_row_is_on_one_side_and_equal_rows_on_the_same(rows, fraction, seed):
    whole = dataset(rows)
    calibration, validation = split(whole, fraction=fraction, seed=seed)
    first, second = calibration.inputs["x"][:, 0].tolist(), validation.inputs["x"][:, 0].tolist()
    assert first
    assert second
    assert sorted(first + second) == sorted(rows)
    assert not set(first) & set(second)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_the_proportion_holds_in_each_class(fraction):
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    whole = dataset(np.arange(150), labels)
    calibration, validation = split(whole, fraction=fraction, seed=1)
    for part, share in ((calibration, fraction), (validation, 1 - fraction)):
        assert np.abs(np.bincount(part.labels, minlength=3) - share * np.array([100, 40, 10])).max() <= 1
        np.testing.assert_array_equal(part.labels, labels[part.inputs["x"][:, 0].astype(int)])


def test_classes_of_a_single_row_go_to_both_sides():
    calibration, validation = split(dataset(np.arange(100), np.arange(100)), fraction=0.5)
    assert abs(len(calibration) - len(validation)) <= 1


def test_the_same_seed_gives_the_same_parts_and_another_one_others():
    whole = dataset(np.arange(50))
    chosen = [split(whole, seed=seed)[0].inputs["x"][:, 0].tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(chosen[0])


def test_rows_are_equal_only_if_all_inputs_are():
    a = np.zeros((2, 4), np.float32)
    both = Dataset({"a": a, "b": np.arange(8, dtype=np.float32).reshape(2, 4)}, None, "x", "", "npz", batched=True)
    assert [len(part) for part in split(both)] == [1, 1]
    words = np.array([["ab", "c"], ["a", "bc"]], dtype=object)
    words = np.vectorize(str.encode, otypes=[object])(words)
    assert [len(part) for part in split(Dataset({"w": words}, None, "x", "", "npz", batched=True))] == [1, 1]


@pytest.mark.parametrize(("rows", "sentence"), [([1], "has one row"), ([2, 2, 2], "has 3 rows that are all the same")])
def test_too_few_different_rows_cannot_be_kept_apart(rows, sentence):
    with pytest.raises(TooFewRows, match=f"x.npz {sentence}, and calibration and validation data are kept apart"):
        split(dataset(rows))


def test_validation_data_that_is_given_loses_the_rows_that_calibrate():
    left = without_rows_of(dataset([1, 2, 3, 2], labels=[0, 1, 0, 1]), dataset([2, 9]))
    assert left.inputs["x"][:, 0].tolist() == [1, 3]
    assert left.labels.tolist() == [0, 0]
    with pytest.raises(TooFewRows, match=r"every row of x\.npz is in x\.npz too"):
        without_rows_of(dataset([2, 9]), dataset([9, 2]))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_leaves_something_for_both(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(dataset([1, 2]), fraction=fraction)


def test_batches_are_cut_when_asked_for_and_can_be_gone_through_again():
    batches = dataset(np.arange(10)).batches(4)
    for _ in range(2):
        assert [batch["x"][:, 0].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(batch["x"]) for batch in batches[1:]] == [4, 2]
    with pytest.raises(ValueError, match="a batch must have at least 1 row, got 0"):
        dataset([1]).batches(0)


def test_random_data_is_only_made_when_asked_for_and_called_random():
    loaded = load_dataset("random", IMAGES)
    assert (len(loaded), loaded.kind, loaded.source, loaded.labels) == (64, "random", "random", None)
    assert load_dataset("random:5", IMAGES).inputs["images"].shape == (5, 8, 8)
    assert load_dataset("random:5", IMAGES).sha256 == load_dataset("random:5", IMAGES).sha256
    assert load_dataset("random:5", IMAGES, seed=1).sha256 != load_dataset("random:5", IMAGES).sha256
    assert [len(part) for part in split(load_dataset("random:8", IMAGES))] == [4, 4]
    for text in ("random:0", "random:many", "random:-1", "random:"):
        with pytest.raises(InvalidData, match="write random, or random:N"):
            load_dataset(text, IMAGES)


def test_random_data_fits_every_kind_of_input():
    ids = load_dataset("random:3", TOKENS).inputs["ids"]
    assert (ids.shape, ids.min() >= 0, ids.max() < 10) == ((3, 16), True, True)
    assert isinstance(load_dataset("random:3", WORDS).inputs["words"][0, 0], bytes)
    assert set(load_dataset("random:3", PAIR).inputs) == {"a", "b"}
    fixed = signature("m (float[4, 2] x, float s) => (float[4, 2] y) { y = Mul (x, s) }")
    assert {name: array.shape for name, array in load_dataset("random:3", fixed).inputs.items()} == {
        "x": (3, 4, 2),
        "s": (3,),
    }
    one = signature("m (float[1, 2] x) => (float[1, 2] y) { y = Relu (x) }")
    assert load_dataset("random:3", one).inputs["x"].shape == (3, 2)


def test_a_folder_called_random_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "random").mkdir()
    np.save(tmp_path / "random" / "images.npy", np.ones((2, 8, 8)))
    monkeypatch.chdir(tmp_path)
    assert load_dataset("random", IMAGES).kind == "random"
    assert load_dataset("./random", IMAGES).kind == "npy folder"


def test_rows_that_differ_in_shape_alone_are_not_equal():
    rows = ragged([np.zeros((3, 4), np.float32), np.zeros((4, 3), np.float32), np.zeros((3, 4), np.float32)])
    whole = Dataset({"x": rows}, None, "x.npz", "0" * 64, "npz", batched=True)
    sides = [{row.shape for row in side.inputs["x"]} for side in split(whole, fraction=0.5, seed=0)]
    assert {frozenset(side) for side in sides} == {frozenset({(3, 4)}), frozenset({(4, 3)})}
