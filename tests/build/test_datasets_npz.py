"""Data from .npz files: what fits a model is taken, everything else is refused with the array named."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from datasets_signatures import IMAGES, PAIR, WORDS, signature

from plansmith_build.datasets import InvalidData, InvalidLabels, InvalidPreprocessing, Preprocessing, load_dataset
from plansmith_build.datasets.checking import check_data
from plansmith_build.datasets.layout import layout_of
from plansmith_build.datasets.loading import check_source
from plansmith_build.datasets.numpy_files import read_npy
from plansmith_build.datasets.raw_data import RawData

ROWS = np.random.default_rng(0).standard_normal((6, 8, 8)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def npz(tmp_path):
    def save(*, compressed=False, **arrays) -> str:
        path = tmp_path / "calibration.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return str(path)

    return save


def refused(source: str, wanted, sentence: str, *, error=InvalidData, **options) -> None:
    with pytest.raises(error, match=sentence) as caught:
        load_dataset(source, wanted, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_taken_by_the_names_of_the_inputs(npz, compressed):
    a, b = np.random.default_rng(1).standard_normal((2, 5, 4)).astype(np.float32)
    path = npz(compressed=compressed, b=b, a=a)
    dataset = load_dataset(path, PAIR)
    assert list(dataset.inputs) == ["a", "b"]
    np.testing.assert_array_equal(dataset.inputs["a"], a)
    np.testing.assert_array_equal(dataset.inputs["b"], b)
    assert (len(dataset), dataset.labels, dataset.kind, dataset.source) == (5, None, "npz", "calibration.npz")
    with open(path, "rb") as file:  # noqa: PTH123
        assert dataset.sha256 == hashlib.sha256(file.read()).hexdigest()


def test_an_array_that_is_stored_as_it_is_is_mapped_and_not_read(npz):
    dataset = load_dataset(npz(images=ROWS), IMAGES)
    base = dataset.inputs["images"]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


def test_column_major_arrays_keep_their_values(npz):
    for compressed in (False, True):
        dataset = load_dataset(npz(compressed=compressed, images=np.asfortranarray(ROWS)), IMAGES)
        np.testing.assert_array_equal(dataset.inputs["images"], ROWS)


@pytest.mark.parametrize("key", ["labels", "label", "y"])
def test_a_model_with_one_input_takes_the_only_array_that_is_not_the_labels(npz, key):
    dataset = load_dataset(npz(**{"X_test": ROWS, key: LABELS}), IMAGES)
    np.testing.assert_array_equal(dataset.inputs["images"], ROWS)
    np.testing.assert_array_equal(dataset.labels, LABELS)
    assert dataset.labels.dtype == np.int64


def test_an_input_may_be_called_as_labels_usually_are(npz):
    model = signature("m (float[N, 4] y) => (float[N, 4] z) { z = Relu (y) }")
    dataset = load_dataset(npz(y=np.ones((2, 4), np.float32), labels=np.array([1, 0])), model)
    assert list(dataset.inputs) == ["y"]
    assert dataset.labels.tolist() == [1, 0]


def test_the_name_of_the_labels_can_be_given(npz):
    path = npz(images=ROWS, labels=LABELS + 1, truth=LABELS)
    refused(path, IMAGES, "has 'labels', which the model does not take", labels_key="truth")
    path = npz(images=ROWS, truth=LABELS)
    assert load_dataset(path, IMAGES, labels_key="truth").labels.tolist() == LABELS.tolist()
    refused(path, IMAGES, "'truth', which the model does not take.*'truth' are the labels.*--labels-key")
    refused(path, IMAGES, "has no 'nosuch': it has 'images', 'truth'", error=InvalidLabels, labels_key="nosuch")
    refused(npz(images=ROWS, labels=LABELS, y=LABELS), IMAGES, "'labels' and 'y'.*--labels-key", error=InvalidLabels)


@pytest.mark.parametrize(
    ("given", "text", "wanted"),
    [
        (np.array([[0.1, 1e-3]]), "float", np.float32),
        (np.array([[0.1, -3.0]], ">f4"), "float", np.float32),
        (np.array([[-128, 127]]), "int8", np.int8),
        (np.array([[0, 1]], np.uint8), "bool", np.bool_),
        (np.array([[0.0, -7.0]]), "int64", np.int64),
        (np.array([[1, 30000]], np.int32), "int64", np.int64),
    ],
)
def test_values_are_rounded_to_the_precision_of_the_input_and_never_changed(npz, given, text, wanted):
    model = signature(f"m ({text}[N, 2] x) => ({text}[N, 2] y) {{ y = Identity (x) }}")
    loaded = load_dataset(npz(x=given), model).inputs["x"]
    assert loaded.dtype == wanted
    np.testing.assert_array_equal(loaded, given.astype(wanted))


@pytest.mark.parametrize(
    ("given", "text", "sentence"),
    [
        (np.array([[1.5, 2.0]]), "int64", "input 'x': the array holds 1.5, which INT64 cannot hold"),
        (np.array([[1e39, 0.0]]), "float", r"holds 1e\+39, which is beyond the range of FP32"),
        (np.array([[2**24 + 1, 0]]), "float", "holds the integer 16777217, which FP32 cannot hold exactly"),
        (np.array([[-1, 0]]), "uint8", "holds -1, which UINT8 cannot hold"),
        (np.array([[1j, 0]]), "float", "complex128"),
        (np.array([[1.0, 2.0]]), "string", "is float64, which BYTES does not take"),
    ],
)
def test_a_dtype_that_would_lose_something_is_refused(npz, given, text, sentence):
    refused(npz(x=given), signature(f"m ({text}[N, 2] x) => ({text}[N, 2] y) {{ y = Identity (x) }}"), sentence)


def test_strings_come_as_arrays_of_fixed_size(npz):
    for array in (np.array([["grün", "b"]]), np.array([["grün".encode(), b"b"]])):
        loaded = load_dataset(npz(words=array), WORDS).inputs["words"]
        assert loaded.tolist() == [["grün".encode(), b"b"]]
        assert loaded.dtype == object


def test_python_objects_are_refused_because_they_could_run_code(npz):
    path = npz(words=np.array([["a", "b"]], dtype=object))
    refused(path, WORDS, r"'words' of .*calibration.npz holds Python objects, .*could run code.*\.astype\('U'\)")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (ROWS[:, :4], r"input 'images': the array is float32 \[6, 4, 8\], wanted FP32 \[N, 8, 8\]"),
        (ROWS.reshape(6, 64), r"is float32 \[6, 64\], wanted FP32 \[N, 8, 8\]"),
        (ROWS[0], r"is float32 \[8, 8\], wanted FP32 \[N, 8, 8\], N of them stacked: .*array\[numpy.newaxis\]"),
        (np.float32(3), r"is float32 \[\], wanted"),
        (ROWS[:0], "has no rows"),
    ],
)
def test_a_wrong_shape_is_told_beside_the_right_one(npz, given, sentence):
    refused(npz(images=given), IMAGES, sentence)


def test_images_with_the_channels_at_the_wrong_end_are_recognised(npz):
    first = signature("m (float[N, 3, 8, 9] x) => (float[N, 3, 8, 9] y) { y = Relu (x) }")
    last = signature("m (float[N, 8, 9, 3] x) => (float[N, 8, 9, 3] y) { y = Relu (x) }")
    refused(npz(x=np.zeros((2, 8, 9, 3))), first, r"channels last: array.transpose\(0, 3, 1, 2\)")
    refused(npz(x=np.zeros((2, 3, 8, 9))), last, r"channels first: array.transpose\(0, 2, 3, 1\)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_found_wherever_it_stands(npz, value):
    rows = ROWS.copy()
    rows[4, 7, 1] = value
    refused(npz(images=rows), IMAGES, rf"input 'images': row 4 holds {value} at \[7, 1\]")


def test_missing_and_unknown_inputs_are_named(npz):
    ones = np.ones((2, 4), np.float32)
    refused(npz(a=ones), PAIR, r"does not have 'b', which the model needs: wanted 'a' FP32 \[N, 4\], 'b' FP32 \[N, 4\]")
    refused(npz(a=ones, c=ones), PAIR, "has 'c', which the model does not take and does not have 'b'")
    refused(npz(a=ones, b=ones[:1]), PAIR, "'a' has 2 rows and 'b' has 1")


def test_an_optional_input_needs_no_data(npz):
    optional = signature("m (float[N, 4] x, float[N, 4] bias) => (float[N, 4] y) { y = Add (x, bias) }")
    optional = replace(optional, inputs=(optional.inputs[0], replace(optional.inputs[1], optional=True)))
    ones = np.ones((3, 4), np.float32)
    assert list(load_dataset(npz(x=ones), optional).inputs) == ["x"]
    assert list(load_dataset(npz(x=ones, bias=ones), optional).inputs) == ["x", "bias"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (LABELS[:5], r"the labels are \[5\] for 6 rows, wanted \[6\]"),
        (np.eye(3)[LABELS], r"the labels are \[6, 3\], wanted one number a row: .*argmax"),
        (LABELS - 1, "the label of row 0 is -1, and classes are counted from 0"),
        (LABELS + 0.5, "the label of row 0 is 0.5, which is not a whole number"),
        (np.array([0, np.nan, 1, 2, 1, 0]), "the label of row 1 is nan"),
        (LABELS + 8, r"the label of row 2 is 10, and there are 10 class names \(--labels\), 0 to 9"),
        (np.array(list("abcabc")), "the label of row 0 is 'a', which is not among the class names"),
        (LABELS.astype("M8[D]"), r"the labels are datetime64\[D\], wanted whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(npz, labels, sentence):
    refused(npz(images=ROWS, labels=labels), IMAGES, sentence, error=InvalidLabels, class_names=list("0123456789"))


def test_labels_may_be_whole_floats_a_column_or_names(npz):
    for labels in (LABELS.astype(np.float64), LABELS[:, np.newaxis], LABELS.astype(np.uint8)):
        assert load_dataset(npz(images=ROWS, y=labels), IMAGES).labels.tolist() == LABELS.tolist()
    names = ["cat", "dog", "bird"]
    path = npz(images=ROWS, y=np.array(names)[LABELS])
    refused(path, IMAGES, "the labels are names such as '.*--labels", error=InvalidLabels)
    assert load_dataset(path, IMAGES, class_names=names).labels.tolist() == LABELS.tolist()
    refused(path, IMAGES, "row 2 is 'bird', which is not among", error=InvalidLabels, class_names=["cat", "dog"])


def test_fewer_rows_can_be_asked_for_and_are_a_fair_sample(npz):
    rows, labels = np.arange(3000, dtype=np.float32), np.repeat([0, 1], [2970, 30])
    images = np.broadcast_to(rows[:, np.newaxis, np.newaxis], (3000, 8, 8))
    path = npz(images=images, labels=labels)
    dataset = load_dataset(path, IMAGES, max_rows=600, seed=3)
    # One row in a hundred, as in the whole: not half of them.
    assert 1 <= np.count_nonzero(dataset.labels) <= 15
    np.testing.assert_array_equal(labels[dataset.inputs["images"][:, 0, 0].astype(int)], dataset.labels)
    refused(path, IMAGES, "at least 1, got 0", max_rows=0)


def test_only_the_rows_that_are_asked_for_are_converted_and_looked_at(npz):
    rows = np.zeros((200, 8, 8))
    rows[50, 1, 1] = np.nan
    path = npz(images=rows)
    assert len(load_dataset(path, IMAGES, max_rows=3, seed=0)) == 3
    # By its number in the file, not among those that were chosen.
    refused(path, IMAGES, r"row 50 holds nan at \[1, 1\]", max_rows=199, seed=0)


def test_a_file_whose_conversion_would_not_fit_in_memory_is_refused_before_it_is_converted(tmp_path):
    # A sparse file that takes no space on the disk.
    path = tmp_path / "images.npy"
    header = np.lib.format.header_data_from_array_1_0(np.zeros((0, 8, 8), np.uint8))
    rows = 5 * 2**28 // 64
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (rows, 8, 8)})
        file.truncate(file.tell() + rows * 64)
    array = read_npy(path)
    assert array.shape == (rows, 8, 8)
    raw = RawData({"images": array}, None, "0" * 64, "npy folder", "huge")
    with pytest.raises(InvalidData, match=r"huge, input 'images', converted to FP32, would take 5\.0 GiB of memory"):
        check_data(raw, layout_of(IMAGES, batched=None), source="huge")
    assert len(check_data(raw, layout_of(IMAGES, batched=None), source="huge", max_rows=5)) == 5


def test_what_is_no_whole_npz_file_is_refused(npz, tmp_path):
    good = npz(images=ROWS)
    with open(good, "rb") as file:  # noqa: PTH123
        content = file.read()
    files = {
        "truncated.npz": (content[: len(content) // 2], "is not a whole .npz file"),
        "text.npz": (b"no archive", "is not a whole .npz file"),
        "empty.npz": (b"", "is not a whole .npz file"),
        "flipped.npz": (content.replace(ROWS[3].tobytes(), ROWS[2].tobytes()), "is not a whole .npz file"),
        "data.csv": (b"1,2", "is of no known kind: name a .npz or .npy file"),
        "data.npy": (content, "is not a whole .npy file"),
    }
    for name, (data, sentence) in files.items():
        (tmp_path / name).write_bytes(data)
        refused(str(tmp_path / name), IMAGES, rf"{re.escape(name)}.*{sentence}")
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    refused(str(tmp_path / "none.npz"), IMAGES, "is empty")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(str(tmp_path / "other.npz"), IMAGES, "'readme.txt', which is not an array")
    refused(str(tmp_path / "nosuch.npz"), IMAGES, "nosuch.npz does not exist: name a .npz or .npy file")
    for source in (f"{'long' * 100}.npz", f"{'long' * 100}:rows"):
        refused(source, IMAGES, "cannot be read: File name too long")
    with pytest.raises(InvalidData, match="cannot be read: File name too long"):
        check_source(f"{'long' * 100}.npz")


def test_an_array_without_a_name_is_that_of_the_only_input(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    dataset = load_dataset(str(tmp_path / "rows.npy"), IMAGES)
    np.testing.assert_array_equal(next(iter(dataset.inputs.values())), ROWS)
    assert dataset.kind == "npy"
    refused(str(tmp_path / "rows.npy"), PAIR, "has no names in it")
    refused(str(tmp_path / "rows.npy"), IMAGES, "rows.npy has no 'target'", error=InvalidLabels, labels_key="target")


def test_a_name_that_stands_twice_in_a_file_is_refused(tmp_path, npz):
    with zipfile.ZipFile(npz(images=ROWS)) as archive:
        member = archive.read("images.npy")
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("images.npy", member)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images.npy", member)
    refused(str(tmp_path / "twice.npz"), IMAGES, "has two arrays of the name 'images'")


def test_a_compressed_file_that_would_not_fit_in_memory_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1024))
        archive.writestr("b.npy", bytes(1024))
    # The list of contents says that each is of 3 GiB.
    path.write_bytes(path.read_bytes().replace(np.uint32(1024).tobytes(), np.uint32(3 * 2**30).tobytes()))
    refused(str(path), PAIR, r"bomb.npz would take 6.0 GiB of memory, and 4 GiB are allowed: .*numpy.savez")


def test_rows_of_a_model_with_a_fixed_number_of_them(npz):
    one = signature("m (float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }")
    rows = np.arange(48, dtype=np.float32).reshape(12, 4)
    dataset = load_dataset(npz(x=rows), one)
    assert dataset.batched
    assert [batch["x"].shape for batch in dataset.batches(5)] == [(5, 4), (5, 4), (2, 4)]

    four = signature("m (float[4, 4] x) => (float[4, 4] y) { y = Relu (x) }")
    for array in (rows, rows.reshape(3, 4, 4)):
        dataset = load_dataset(npz(x=array), four)
        assert (len(dataset), dataset.batched) == (3, False)
        assert [batch["x"].shape for batch in dataset.batches(8)] == [(4, 4)] * 3
        np.testing.assert_array_equal(dataset.batches(1)[2]["x"], rows[8:])
    refused(npz(x=rows[:10]), four, r"is float32 \[10, 4\], wanted FP32 \[N, 4, 4\]; the model has no batch dimension")
    assert load_dataset(npz(x=rows), four, batched=True).batched


def test_samples_of_a_model_without_a_batch_dimension_are_stacked(npz):
    model = signature("m (float[2, 3] x, float s) => (float[2, 3] y) { y = Mul (x, s) }")
    x, s = np.ones((5, 2, 3), np.float32), np.arange(5, dtype=np.float32)
    dataset = load_dataset(npz(x=x, s=s), model)
    assert not dataset.batched
    runs = dataset.batches(4)
    assert len(runs) == 5
    assert (runs[3]["x"].shape, runs[3]["s"].shape, float(runs[3]["s"])) == ((2, 3), (), 3.0)
    assert isinstance(runs[-1]["s"], np.ndarray)
    with pytest.raises(IndexError):
        runs[5]


def test_preprocessing_is_for_images(npz):
    refused(npz(images=ROWS), IMAGES, "holds no images", error=InvalidPreprocessing, preprocessing=Preprocessing())
