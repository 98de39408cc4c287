"""Data from folders of .npy files."""

from __future__ import annotations

import hashlib
import subprocess

import numpy as np
import pytest
from datasets_signatures import IMAGES, PAIR, signature

from plansmith_build.datasets import InvalidData, InvalidLabels, load_dataset

ROWS = np.random.default_rng(0).standard_normal((12, 8, 8)).astype(np.float32)


def save(folder, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def refused(folder, wanted, sentence, *, error=InvalidData, **options):
    with pytest.raises(error, match=sentence) as caught:
        load_dataset(str(folder), wanted, **options)
    assert caught.value.exit_code == 2


def test_one_file_for_each_input(tmp_path):
    a, b = np.ones((2, 5, 4), np.float32) * [[[1]], [[2]]]
    save(tmp_path / "data", a=a, b=b, labels=np.arange(5))
    dataset = load_dataset(str(tmp_path / "data"), PAIR)
    np.testing.assert_array_equal(dataset.inputs["b"], b)
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]
    assert (dataset.kind, dataset.source) == ("npy folder", "data")


@pytest.mark.parametrize("name", ["images", "whatever"])
def test_all_rows_of_a_model_with_one_input_in_one_file(tmp_path, name):
    save(tmp_path, **{name: ROWS})
    np.testing.assert_array_equal(load_dataset(str(tmp_path), IMAGES).inputs["images"], ROWS)


def test_one_file_for_each_sample_in_the_order_of_their_numbers(tmp_path):
    # 10.npy comes after 9.npy, and the labels are in that order.
    save(tmp_path, **{str(number): row for number, row in enumerate(ROWS)}, labels=np.arange(12))
    dataset = load_dataset(str(tmp_path), IMAGES)
    np.testing.assert_array_equal(dataset.inputs["images"], ROWS)
    assert dataset.labels.tolist() == list(range(12))


def test_the_hash_is_that_of_the_lines_that_sha256sum_prints(tmp_path):
    save(tmp_path, **{str(number): row for number, row in enumerate(ROWS)})
    names = [f"{number}.npy" for number in range(12)]
    said = subprocess.run(["sha256sum", *names], check=True, capture_output=True, cwd=tmp_path).stdout
    assert load_dataset(str(tmp_path), IMAGES).sha256 == hashlib.sha256(said).hexdigest()


def test_files_may_hold_chunks_of_rows_of_different_length(tmp_path):
    save(tmp_path, a=ROWS[:5], b=ROWS[5], c=ROWS[6:])
    np.testing.assert_array_equal(load_dataset(str(tmp_path), IMAGES).inputs["images"], ROWS)


def test_a_single_sample_is_a_row(tmp_path):
    save(tmp_path, only=ROWS[0])
    assert load_dataset(str(tmp_path), IMAGES).inputs["images"].shape == (1, 8, 8)


def test_a_sub_folder_for_each_input_of_a_model_with_several(tmp_path):
    for number in range(11):
        save(tmp_path / "a", **{f"s{number}": np.full(4, number, np.float32)})
        save(tmp_path / "b", **{f"s{number}": np.full((1, 4), -number, np.float64)})
    save(tmp_path, label=np.arange(11))
    dataset = load_dataset(str(tmp_path), PAIR)
    assert dataset.inputs["a"][:, 0].tolist() == list(range(11))
    assert dataset.inputs["b"][:, 0].tolist() == [-number for number in range(11)]
    (tmp_path / "b" / "s7.npy").unlink()
    refused(tmp_path, PAIR, "s7.npy has no counterpart in .*/b: a sample needs a file of one name for each input")


def test_inputs_whose_names_cannot_be_file_names(tmp_path):
    model = signature('m (float[N, 4] "in/a:0", float[N, 4] b) => (float[N, 4] y) { y = Add ("in/a:0", b) }')
    save(tmp_path, in_a_0=np.ones((3, 4)), b=np.zeros((3, 4)))
    assert load_dataset(str(tmp_path), model).inputs["in/a:0"].sum() == 12


def test_what_does_not_fit_is_refused_by_its_name(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", IMAGES, "neither images nor .npy files: it is empty")
    save(tmp_path / "labels", labels=np.arange(3))
    refused(tmp_path / "labels", IMAGES, r"no .npy files for the model's inputs: save images.npy with FP32 \[N, 8, 8\]")
    save(tmp_path / "shape", **{"1": ROWS[0], "2": ROWS[1, :3]})
    refused(tmp_path / "shape", IMAGES, r"2.npy is float32 \[3, 8\], and input 'images' wants FP32 \[N, 8, 8\], or one")
    save(tmp_path / "extra", a=np.ones((2, 4)), b=np.ones((2, 4)), c=np.ones((2, 4)))
    refused(tmp_path / "extra", PAIR, "has 'c', which the model does not take")
    save(tmp_path / "missing", a=np.ones((2, 4)))
    refused(tmp_path / "missing", PAIR, "does not have 'b'")
    save(tmp_path / "both" / "a", one=np.ones(4))
    save(tmp_path / "both", a=np.ones((2, 4)))
    refused(tmp_path / "both", PAIR, "both a file and a sub-folder for input 'a'")
    save(tmp_path / "strange" / "c", one=np.ones(4))
    refused(tmp_path / "strange", PAIR, "strange/c is named as none of the model's inputs")
    save(tmp_path / "twice", x=ROWS)
    (tmp_path / "twice" / "x.NPY").write_bytes((tmp_path / "twice" / "x.npy").read_bytes())
    refused(tmp_path / "twice", IMAGES, "has both x.NPY and x.npy")
    save(tmp_path / "two", images=ROWS, y=np.arange(12), label=np.arange(12))
    refused(tmp_path / "two", IMAGES, "'label' and 'y', and each may be the labels", error=InvalidLabels)


def test_damaged_files_and_python_objects_are_refused(tmp_path):
    save(tmp_path / "objects", images=np.array([["a"]], dtype=object))
    refused(tmp_path / "objects", IMAGES, "images.npy holds Python objects")
    save(tmp_path / "short", images=ROWS)
    path = tmp_path / "short" / "images.npy"
    path.write_bytes(path.read_bytes()[:-40])
    refused(tmp_path / "short", IMAGES, "images.npy is not a whole .npy file")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "x.npy").write_text("hello")
    refused(tmp_path / "text", IMAGES, "x.npy is not a whole .npy file")
